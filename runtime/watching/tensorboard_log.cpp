#include "runtime/watching/tensorboard_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <string_view>

#include "core/error.h"
#include "core/log.h"
#include "proto/tensorboard.pb.h"
#include "runtime/watching/record_file.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using tensorboard::Event;

constexpr std::string_view kPrefix = "events.out.tfevents.";

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// TensorBoard reads a folder's files in the order of their names: by second, then by number.
struct FileName {
  std::int64_t second = 0, number = 0;
  auto operator<=>(const FileName&) const = default;
  std::string text() const { return fmt::format("{}{:010}.{:05}.ballot", kPrefix, second, number); }
};

FileName last_in(const std::string& folder) {
  FileName last;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    const char* const end = name.data() + name.size();
    FileName found;
    const auto second = std::from_chars(name.data() + kPrefix.size(), end, found.second);
    if (second.ec != std::errc()) continue;
    if (second.ptr != end) std::from_chars(second.ptr + 1, end, found.number);
    last = std::max(last, found);
  }
  return last;
}

std::unique_ptr<RecordFile> open_next(const std::string& folder) {
  fs::create_directories(folder);
  constexpr int kTries = 16;  // others may begin at the same moment
  for (int i = 0;; ++i) {
    const FileName last = last_in(folder);
    const FileName next{std::max(static_cast<std::int64_t>(now()), last.second), last.number + 1};
    const std::string path = folder + "/" + next.text();
    if (fs::exists(path) && i < kTries) continue;
    try {
      return std::make_unique<RecordFile>(path);
    } catch (const FileError&) {
      if (i >= kTries || !fs::exists(path)) throw;
    }
  }
}

}  // namespace

TensorBoardLog::TensorBoardLog(const std::string& run_folder, std::int64_t first_step)
    : file_(open_next(run_folder + "/tensorboard")) {
  Event event;
  event.set_wall_time(now());
  event.set_file_version("brain.Event:2");
  file_->append(event.SerializeAsString());
  event.set_step(first_step);
  event.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  file_->append(event.SerializeAsString());
}

TensorBoardLog::~TensorBoardLog() = default;

void TensorBoardLog::add(std::int64_t step,
                         const std::vector<std::pair<std::string, double>>& values) {
  Event event;
  event.set_wall_time(now());
  event.set_step(step);
  for (const auto& [tag, value] : values) {
    tensorboard::Summary::Value* const one = event.mutable_summary()->add_value();
    one->set_tag(tag);
    one->set_simple_value(static_cast<float>(value));
  }
  try {
    file_->append(event.SerializeAsString());
  } catch (const FileError& failure) {
    if (!reported_)
      log_warning(
          "TensorBoard misses step {} and whatever else cannot be written, metrics.jsonl has it: "
          "{}",
          step, failure.what());
    reported_ = true;
  }
}

}  // namespace ballot
