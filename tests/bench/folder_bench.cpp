// folder_bench FOLDER [SCRATCH]: how fast a model folder is loaded and saved, beside plain reads
// and writes of the same bytes, and how much memory loading takes beside the parameters.
//
// Verifies first: every number against one read by itself, by one thread. "cold": the kernel was
// told to forget the files (posix_fadvise), so they come from the disk; "warm": from its cache.
// SCRATCH: a folder on the disk to write to; without it nothing is saved.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "core/clock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/parallel.h"
#include "models/architecture.h"
#include "models/model_folder.h"
#include "models/stored_values.h"
#include "models/stored_weights.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
constexpr int kRepeats = 5;

std::vector<std::string> weight_files(const std::string& folder) {
  std::vector<std::string> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
  std::ranges::sort(files);
  return files;
}

void forget(const std::vector<std::string>& files) {
  for (const std::string& path : files) {
    const int descriptor = ::open(path.c_str(), O_RDONLY);
    if (descriptor < 0) throw_file_error("open", path);
    ::fsync(descriptor);  // what is not on the disk is not forgotten
    ::posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    ::close(descriptor);
  }
}

// By one thread, in order, into memory that is used again: what `cat` does.
void read_plainly(const std::vector<std::string>& files) {
  std::vector<std::byte> piece(std::size_t{4} << 20);
  for (const std::string& path : files) {
    const InputFile file(path);
    const std::uint64_t size = fs::file_size(path);
    for (std::uint64_t at = 0; at < size; at += piece.size())
      file.read(at, std::span(piece).first(std::min<std::uint64_t>(piece.size(), size - at)));
  }
}

// What `dd bs=4M conv=fsync` does.
void write_plainly(const std::string& path, std::uint64_t size) {
  const std::vector<std::byte> piece(std::size_t{4} << 20);
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  if (descriptor < 0) throw_file_error("open", path);
  for (std::uint64_t at = 0; at < size; at += piece.size()) {
    const std::size_t count = std::min<std::uint64_t>(piece.size(), size - at);
    if (::write(descriptor, piece.data(), count) != static_cast<ssize_t>(count))
      throw_file_error("write", path);
  }
  if (::fsync(descriptor) != 0) throw_file_error("fsync", path);
  ::close(descriptor);
}

void verify(const std::string& folder, const ParameterArena& arena) {
  const StoredWeights weights(folder);
  std::vector<std::byte> bytes;
  std::vector<float> numbers;
  for (const Parameter& p : arena.parameters()) {
    const StoredWeights::Place place = weights.find(p.shape.name);
    bytes.resize(place.tensor->bytes.size());
    weights.read(place, 0, bytes);
    numbers.resize(static_cast<std::size_t>(p.count()));
    widen(place.tensor->type, bytes.data(), numbers.data(), p.count());
    for (std::int64_t row = 0; row < p.shape.rows; ++row)
      if (std::memcmp(p.value.f32() + row * p.row_stride, numbers.data() + row * p.shape.cols,
                      static_cast<std::size_t>(p.shape.cols) * 4) != 0)
        throw DataError("{}: row {} of {} was loaded otherwise", folder, row, p.shape.name);
  }
}

std::uint64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  std::string word;
  std::uint64_t kibibytes = 0;
  while (status >> word)
    if (word == key + ":") status >> kibibytes;
  return kibibytes * 1024;
}

double best_rate(std::uint64_t bytes, const std::function<void()>& before,
                 const std::function<void()>& work) {
  double best = 0;
  for (int i = 0; i < kRepeats; ++i) {
    before();
    const Stopwatch watch;
    work();
    best = std::max(best, static_cast<double>(bytes) / watch.elapsed() / 1e9);
  }
  return best;
}

void run(const std::string& folder, const std::string& scratch) {
  std::vector<ParameterShape> shapes = read_architecture(folder)->parameter_shapes();
  for (ParameterShape& shape : shapes) shape.frozen = true;  // no memory for gradients
  const ParameterArena arena(shapes, DType::f32);
  const std::vector<std::string> files = weight_files(folder);
  std::uint64_t stored = 0;
  for (const std::string& path : files) stored += fs::file_size(path);

  std::ofstream("/proc/self/clear_refs") << 5;  // the peak begins again
  const std::uint64_t before = status_bytes("VmRSS");
  load_parameters(folder, arena);
  const std::uint64_t extra = status_bytes("VmHWM") - before;
  verify(folder, arena);
  const double values = 4.0 * static_cast<double>(arena.count());
  fmt::print("{} parameters, {:.3f} GB in {} files, {} threads\n", arena.count(), stored / 1e9,
             files.size(), thread_count());
  fmt::print("memory: {:.3f} GB of values; loading took {:.1f} MB more at its peak ({:.2f} %)\n",
             values / 1e9, extra / 1e6, 100 * static_cast<double>(extra) / values);

  const auto load = [&] { load_parameters(folder, arena); };
  const auto read = [&] { read_plainly(files); };
  const auto forget_all = [&] { forget(files); };
  const auto nothing = [] {};
  for (const bool cold : {true, false}) {
    const std::function<void()> prepare = cold ? std::function<void()>(forget_all) : nothing;
    const double plain = best_rate(stored, prepare, read);
    const double loaded = best_rate(stored, prepare, load);
    fmt::print("load, {}: {:.2f} GB/s; plain read {:.2f} GB/s; ratio {:.2f}\n",
               cold ? "cold" : "warm", loaded, plain, loaded / plain);
  }
  if (scratch.empty()) return;
  const auto written = static_cast<std::uint64_t>(values);
  const double plain =
      best_rate(written, nothing, [&] { write_plainly(scratch + "/plain", written); });
  const double saved = best_rate(written, nothing, [&] { save_parameters(scratch, arena); });
  fmt::print("save, fsynced: {:.2f} GB/s; plain write {:.2f} GB/s; ratio {:.2f}\n", saved, plain,
             saved / plain);
  fs::remove(scratch + "/plain");
  fs::remove(scratch + "/model.safetensors");
}

}  // namespace
}  // namespace ballot

int main(int count, char** words) {
  if (count != 2 && count != 3) {
    fmt::print(stderr, "expected FOLDER [SCRATCH]\n");
    return 2;
  }
  try {
    ballot::run(words[1], count == 3 ? words[2] : "");
    return 0;
  } catch (const std::exception& error) {
    const ballot::Failure failure = ballot::describe_failure(error);
    fmt::print(stderr, "{}\n", failure.message);
    return static_cast<int>(failure.exit_code);
  }
}
