#include "runtime/watching/scrape_target.h"

#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/file.h"
#include "core/log.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFolder = "/prometheus";

// The number in "worker-3.json" and "worker-3-member-1.json"; -1: none.
int worker_of(const std::string& name) {
  constexpr std::string_view kBeginning = "worker-";
  if (!name.starts_with(kBeginning) || !name.ends_with(".json")) return -1;
  int number = -1;
  std::from_chars(name.data() + kBeginning.size(), name.data() + name.size(), number);
  return number;
}

}  // namespace

ScrapeTarget::ScrapeTarget(const std::string& run_folder, const std::string& name,
                           const std::string& address,
                           const std::map<std::string, std::string>& labels)
    : path_(run_folder + kFolder + "/" + name + ".json") {
  fs::create_directories(run_folder + kFolder);
  Json target;
  target["targets"] = Json::array({address});
  target["labels"] = labels;
  replace_file_atomically(
      path_, Json::array({target}).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

ScrapeTarget::~ScrapeTarget() {
  std::error_code failure;
  fs::remove(path_, failure);
  if (failure) log_warning("cannot remove {}: {}", path_, failure.message());
}

void remove_scrape_targets_from(const std::string& run_folder, int workers) {
  std::error_code none;
  for (const auto& file : fs::directory_iterator(run_folder + kFolder, none)) {
    std::error_code gone;
    if (worker_of(file.path().filename().string()) >= workers) fs::remove(file.path(), gone);
  }
}

}  // namespace ballot
