#include "runtime/checkpoint_writer.h"

#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "models/model_folder.h"
#include "models/safetensors.h"
#include "runtime/checkpoint_manifest.h"
#include "runtime/checkpoint_publish.h"
#include "runtime/share_check.h"

namespace ballot {
namespace {

// One share while it is written. Files are opened as their turn comes and made durable at the end,
// together: until then copying and writing go on.
class ShareFiles {
 public:
  ShareFiles(Disk& disk, std::string folder) : disk_(disk), folder_(std::move(folder)) {}

  void open(const CheckpointFile& file) {
    std::vector<TensorLayout> layout;
    for (const CheckpointTensor& tensor : file.tensors) layout.push_back(tensor.layout);
    outputs_.emplace_back(disk_, folder_, note(file.path))
        .append(safetensors_header(layout, file.metadata));
  }
  void append(std::span<const std::byte> bytes) { outputs_.back().append(bytes); }
  void add(const std::string& path, std::string_view text) {
    outputs_.emplace_back(disk_, folder_, note(path)).append(text);
  }
  std::size_t count() const { return outputs_.size(); }

  std::vector<FileFact> finish() {
    std::vector<FileFact> facts;
    for (CheckpointOutput& output : outputs_) facts.push_back(output.finish());
    outputs_.clear();
    return facts;
  }
  const std::vector<std::string>& paths() const { return paths_; }
  // What a share that failed leaves would only fill the disk.
  void remove() noexcept {
    outputs_.clear();
    for (const std::string& path : paths_) {
      try {
        disk_.remove(folder_ + "/" + path);
      } catch (const std::exception&) {  // it may not have been made
      }
    }
  }

 private:
  const std::string& note(const std::string& path) {
    paths_.push_back(path);
    return paths_.back();
  }
  Disk& disk_;
  const std::string folder_;
  std::vector<CheckpointOutput> outputs_;
  std::vector<std::string> paths_;
};

}  // namespace

CheckpointWriter::CheckpointWriter(CheckpointOptions options, Disk& disk)
    : options_(options), disk_(disk), staging_(options.staging_bytes) {
  thread_ = std::thread([this] { run(); });
}

CheckpointWriter::~CheckpointWriter() {
  staging_.give_up("the run ended before it was written");
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  thread_.join();
}

void CheckpointWriter::reserve(const CheckpointShare& share, const ParameterArena& arena,
                               const OptimizerState& state) {
  staging_.reserve(files_of(share, arena, state, options_.shard_bytes));
}

void CheckpointWriter::begin(const CheckpointShare& share, const TrainingState& training,
                             std::vector<std::uint64_t> digests, const ParameterArena& arena,
                             const OptimizerState& state, const CheckpointPlace& place) {
  require(digests.size() == arena.parameters().size(), "{} digests of {} parameters",
          digests.size(), arena.parameters().size());
  const Stopwatch watch;
  if (!wait(Deadline::in(options_.patience))) {
    const std::lock_guard lock(mutex_);
    outcomes_.push_back({training, share, std::nullopt,
                         fmt::format("the share of step {} was still being written after {} s",
                                     job_ ? job_->training.step : 0, seconds(options_.patience))});
    return;
  }
  auto job = std::make_unique<Job>();
  job->share = share;
  job->training = training;
  job->digests = std::move(digests);
  job->place = place;
  job->files = files_of(share, arena, state, options_.shard_bytes);
  if (share.index == 0)
    job->index_json = shard_index_json(share.count, arena, options_.shard_bytes);
  staging_.start(job->files);
  {
    const std::lock_guard lock(mutex_);
    job_ = std::move(job);
  }
  work_.notify_all();
  wait_seconds_ += watch.elapsed();
}

void CheckpointWriter::before_change(const Parameter& parameter, Changing what) {
  wait_seconds_ += staging_.before_change(parameter, what, options_.patience);
}

BeforeChange CheckpointWriter::hook() {
  return [this](const Parameter& parameter, Changing what) { before_change(parameter, what); };
}

bool CheckpointWriter::busy() const {
  const std::lock_guard lock(mutex_);
  return job_ != nullptr;
}

std::optional<ShareOutcome> CheckpointWriter::finished() {
  const std::lock_guard lock(mutex_);
  if (outcomes_.empty()) return std::nullopt;
  ShareOutcome outcome = std::move(outcomes_.front());
  outcomes_.pop_front();
  return outcome;
}

bool CheckpointWriter::wait(Deadline deadline) {
  std::unique_lock lock(mutex_);
  return done_.wait_until(lock, deadline.at, [this] { return job_ == nullptr; });
}

void CheckpointWriter::give_up(const std::string& reason) {
  staging_.give_up(reason);
}

void CheckpointWriter::enqueue(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  work_.notify_all();
}

double CheckpointWriter::take_wait_seconds() {
  return std::exchange(wait_seconds_, 0.0);
}

void CheckpointWriter::run_tasks() {
  while (true) {
    std::function<void()> task;
    {
      const std::lock_guard lock(mutex_);
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    try {
      task();
    } catch (const std::exception& error) {
      log_error("the checkpoint writer: {}", error.what());
    }
  }
}

void CheckpointWriter::run() {
  while (true) {
    run_tasks();
    const Job* job = nullptr;
    {
      std::unique_lock lock(mutex_);
      work_.wait(lock, [this] { return stop_ || job_ || !tasks_.empty(); });
      if (!tasks_.empty()) continue;
      if (!job_) return;
      job = job_.get();
    }
    ShareOutcome outcome{job->training, job->share, std::nullopt, ""};
    try {
      outcome.written = write(*job);
    } catch (const std::exception& error) {
      outcome.error = error.what();
      outcome.damaged = dynamic_cast<const DamagedMemory*>(&error) != nullptr;
      staging_.give_up(outcome.error);
      staging_.next();  // the step has no part in it any more
    }
    {
      const std::lock_guard lock(mutex_);
      outcomes_.push_back(std::move(outcome));
      job_.reset();
    }
    done_.notify_all();
  }
}

WrittenShare CheckpointWriter::write(const Job& job) {
  const std::string folder = partial_folder(job.place.run_folder, job.training, job.share.count);
  const std::string part_path = part_file(job.share.index, job.share.count);
  disk_.make_folder(folder + "/trainer");
  disk_.sync_folder(job.place.run_folder);
  disk_.sync_folder(job.place.run_folder + "/checkpoints");
  // An attempt that was cut off must not vouch for files that are being written again.
  if (has_entry(folder + "/trainer", part_path.substr(part_path.find('/') + 1), disk_)) {
    disk_.remove(folder + "/" + part_path);
    disk_.sync_folder(folder + "/trainer");
  }

  ShareFiles files(disk_, folder);
  ShareCheck check(job.files, job.digests);
  try {
    while (const auto piece = staging_.next()) {
      while (files.count() <= piece->file) files.open(job.files[files.count()]);
      check.add(piece->file, piece->bytes);
      files.append(piece->bytes);
      run_tasks();
    }
    if (const std::string reason = staging_.reason(); !reason.empty())
      throw FileError("{}: {}", folder, reason);
    while (files.count() < job.files.size()) files.open(job.files[files.count()]);
    if (job.share.index == 0) {
      files.add("trainer/state.json", training_state_json(job.training));
      if (!job.index_json.empty()) files.add("model.safetensors.index.json", job.index_json);
      if (const std::string& from = job.place.side_files_from; !from.empty())
        for (const std::string& name : side_files(from))
          // What is no longer there when its turn comes is not worth the checkpoint.
          if (const auto contents = try_side_file(from, name, StoredType::f32))
            files.add(name, *contents);
    }
    CheckpointPart part;
    part.index = job.share.index;
    part.count = job.share.count;
    part.step = job.training.step;
    part.parameters = job.training.digest;
    part.journal = job.training.journal;
    part.files = files.finish();
    disk_.sync_folder(folder + "/trainer");
    disk_.sync_folder(folder);
    files.add(part_path, to_json(part));
    WrittenShare written;
    written.bytes = files.finish().front().size;
    disk_.sync_folder(folder + "/trainer");
    for (const FileFact& file : part.files) written.bytes += file.size;
    written.folder = folder;
    written.files = files.paths();
    written.write_seconds = job.watch.elapsed();
    return written;
  } catch (...) {
    files.remove();
    throw;
  }
}

}  // namespace ballot
