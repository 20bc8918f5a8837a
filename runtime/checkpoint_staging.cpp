#include "runtime/checkpoint_staging.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

std::uint64_t packed_bytes(const CheckpointTensor& tensor) {
  return static_cast<std::uint64_t>(tensor.source.count()) * size_bytes(tensor.source.type);
}

// Bytes [begin, end) of a tensor without its rows' padding.
void copy_packed(const CheckpointTensor& tensor, std::uint64_t begin, std::uint64_t end,
                 std::byte* target, Stream& stream) {
  const std::uint64_t element = size_bytes(tensor.source.type);
  const std::uint64_t row = static_cast<std::uint64_t>(tensor.source.extent[1]) * element;
  const std::uint64_t stride = static_cast<std::uint64_t>(tensor.source.stride[0]) * element;
  const std::byte* source = tensor.source.data;
  const Device device = tensor.source.device;
  if (row == stride) {
    copy_bytes(target, Device{}, source + begin, device, end - begin, stream);
    return;
  }
  while (begin < end) {
    const std::uint64_t in_row = begin % row;
    std::uint64_t count = std::min(end - begin, row - in_row);
    const std::byte* from = source + begin / row * stride + in_row;
    if (in_row == 0 && end - begin >= 2 * row) {  // whole rows at once
      const auto rows = static_cast<std::int64_t>((end - begin) / row);
      const std::int64_t cols = tensor.source.extent[1];
      const DType type = tensor.source.type;
      // Read only.
      copy(make_matrix(const_cast<std::byte*>(from), type, rows, cols, tensor.source.stride[0],
                       device),
           make_matrix(target, type, rows, cols, cols), stream);
      count = static_cast<std::uint64_t>(rows) * row;
    } else {
      copy_bytes(target, Device{}, from, device, count, stream);
    }
    target += count;
    begin += count;
  }
}

}  // namespace

CheckpointStaging::CheckpointStaging(std::uint64_t bytes)
    : limit_bytes_(bytes),
      piece_bytes_(std::clamp(bytes / 8, kLeastPiece, kMostPiece) / kLeastPiece * kLeastPiece) {}

void CheckpointStaging::reserve(std::span<const CheckpointFile> files) {
  const std::uint64_t most = std::max<std::uint64_t>(2, limit_bytes_ / piece_bytes_);
  std::uint64_t pieces = 0;
  for (const CheckpointFile& file : files) {
    std::uint64_t bytes = 0;
    for (const CheckpointTensor& tensor : file.tensors) {
      bytes += packed_bytes(tensor);
      device_ = tensor.source.device;
    }
    pieces += (bytes + piece_bytes_ - 1) / piece_bytes_;
  }
  const std::uint64_t rooms = std::clamp<std::uint64_t>(pieces + 1, 2, most);
  if (memory_.size_bytes() >= rooms * piece_bytes_) return;
  memory_ = PinnedBuffer();  // before the new one is there
  memory_ = PinnedBuffer(static_cast<std::size_t>(rooms * piece_bytes_), device_);
}

void CheckpointStaging::start(std::span<const CheckpointFile> files) {
  require(!under_way_, "a checkpoint is staged while another one is");
  files_ = files;
  offsets_.clear();
  std::size_t parameters = 0;
  for (const CheckpointFile& file : files) {
    std::vector<std::uint64_t>& offsets = offsets_.emplace_back(1, 0);
    for (const CheckpointTensor& tensor : file.tensors) {
      offsets.push_back(offsets.back() + packed_bytes(tensor));
      parameters = std::max(parameters, static_cast<std::size_t>(tensor.parameter->index) + 1);
    }
  }
  reserve(files);

  const std::lock_guard lock(mutex_);
  cuts_.clear();
  for (auto& of_kind : stretches_) of_kind.assign(parameters, {});
  for (std::size_t f = 0; f < files.size(); ++f) {
    const std::size_t first = cuts_.size();
    for (std::uint64_t begin = 0; begin < offsets_[f].back(); begin += piece_bytes_) {
      Cut cut;
      cut.file = f;
      cut.begin = begin;
      cut.end = std::min(begin + piece_bytes_, offsets_[f].back());
      cuts_.push_back(cut);
    }
    for (std::size_t t = 0; t < files[f].tensors.size(); ++t) {
      const CheckpointTensor& tensor = files[f].tensors[t];
      stretches_[static_cast<std::size_t>(tensor.kind)][static_cast<std::size_t>(
                                                            tensor.parameter->index)]
          .push_back({first + static_cast<std::size_t>(offsets_[f][t] / piece_bytes_),
                      first + static_cast<std::size_t>((offsets_[f][t + 1] + piece_bytes_ - 1) /
                                                       piece_bytes_)});
    }
  }
  rooms_.clear();
  for (std::size_t r = memory_.size_bytes() / piece_bytes_; r-- > 0;) rooms_.push_back(r);
  next_ = ahead_ = 0;
  holds_ = step_waits_ = false;
  reason_.clear();
  under_way_ = true;
}

void CheckpointStaging::copy(const Cut& cut) const {
  const std::vector<std::uint64_t>& offsets = offsets_[cut.file];
  std::byte* target = memory_.data() + cut.room * piece_bytes_;
  Stream stream(device_);
  auto t = static_cast<std::size_t>(std::upper_bound(offsets.begin(), offsets.end(), cut.begin) -
                                    offsets.begin() - 1);
  for (std::uint64_t begin = cut.begin; begin < cut.end; ++t) {
    const std::uint64_t end = std::min(cut.end, offsets[t + 1]);
    copy_packed(files_[cut.file].tensors[t], begin - offsets[t], end - offsets[t], target, stream);
    target += end - begin;
    begin = end;
  }
  stream.synchronize();
}

void CheckpointStaging::take_room(Cut& cut) {
  cut.room = rooms_.back();
  rooms_.pop_back();
  cut.stage = Stage::copying;
}

void CheckpointStaging::fail(std::span<Cut> cuts, const std::string& why) {
  for (Cut& cut : cuts) {
    cut.stage = Stage::pending;
    rooms_.push_back(cut.room);
  }
  if (reason_.empty()) reason_ = why;
  changed_.notify_all();
}

bool CheckpointStaging::is_copied(const Stretch& stretch) const {
  for (std::size_t i = stretch.begin; i < stretch.end; ++i)
    if (cuts_[i].stage == Stage::pending || cuts_[i].stage == Stage::copying) return false;
  return true;
}

double CheckpointStaging::before_change(const Parameter& parameter, Changing what,
                                        Duration patience) {
  if (!under_way_) return 0;
  const Stopwatch watch;
  const auto& of_kind = stretches_[static_cast<std::size_t>(what)];
  const auto index = static_cast<std::size_t>(parameter.index);
  if (index >= of_kind.size()) return 0;
  std::vector<std::size_t> mine;
  std::unique_lock lock(mutex_);
  for (const Stretch& stretch : of_kind[index]) {
    std::uint64_t seen = progress_;
    Deadline deadline = Deadline::in(patience);
    while (!is_copied(stretch)) {
      mine.clear();
      bool lacks_room = false, others_copy = false;
      for (std::size_t i = stretch.begin; i < stretch.end; ++i) {
        if (cuts_[i].stage == Stage::copying) others_copy = true;
        if (cuts_[i].stage != Stage::pending || !reason_.empty()) continue;
        if (rooms_.size() > 1) {
          take_room(cuts_[i]);
          mine.push_back(i);
        } else {
          lacks_room = true;
        }
      }
      if (!mine.empty()) {
        lock.unlock();
        try {
          parallel_for(static_cast<std::int64_t>(mine.size()), 1,
                       [&](std::int64_t begin, std::int64_t end) {
                         for (std::int64_t i = begin; i < end; ++i)
                           copy(cuts_[mine[static_cast<std::size_t>(i)]]);
                       });
        } catch (const std::exception& error) {
          lock.lock();
          for (const std::size_t i : mine) fail(std::span(&cuts_[i], 1), error.what());
          throw;
        }
        lock.lock();
        for (const std::size_t i : mine) cuts_[i].stage = Stage::staged;
        changed_.notify_all();
        continue;
      }
      // Given up: only what the disk's thread reads at this moment is waited for.
      if (!lacks_room && !others_copy) break;
      step_waits_ = lacks_room;
      changed_.wait_until(lock, deadline.at);
      if (progress_ != seen) {
        seen = progress_;
        deadline = Deadline::in(patience);
      } else if (deadline.passed() && reason_.empty()) {
        reason_ = fmt::format("the disk took no byte of {} in {} s", files_[cuts_[next_].file].path,
                              seconds(patience));
        changed_.notify_all();
      }
    }
    step_waits_ = false;
  }
  return watch.elapsed();
}

std::optional<CheckpointStaging::Piece> CheckpointStaging::next() {
  std::unique_lock lock(mutex_);
  if (holds_) {
    cuts_[next_ - 1].stage = Stage::done;
    rooms_.push_back(cuts_[next_ - 1].room);
    holds_ = false;
    ++progress_;
    changed_.notify_all();
  }
  while (reason_.empty() && next_ < cuts_.size()) {
    while (ahead_ < cuts_.size() && cuts_[ahead_].stage != Stage::pending) ++ahead_;
    Cut& first = cuts_[next_];
    Cut* to_copy = nullptr;
    if (first.stage == Stage::pending)
      to_copy = &first;
    else if (ahead_ < cuts_.size() && rooms_.size() > 1 && !step_waits_)
      to_copy = &cuts_[ahead_];
    if (to_copy != nullptr) {
      require(!rooms_.empty(), "no room is left for the next piece");
      take_room(*to_copy);
      lock.unlock();
      try {
        copy(*to_copy);
      } catch (const std::exception& error) {
        lock.lock();
        fail(std::span(to_copy, 1), error.what());
        under_way_ = false;
        throw;
      }
      lock.lock();
      to_copy->stage = Stage::staged;
      changed_.notify_all();
    } else if (first.stage == Stage::staged) {
      holds_ = true;
      ++next_;
      return Piece{first.file,
                   {memory_.data() + first.room * piece_bytes_,
                    static_cast<std::size_t>(first.end - first.begin)}};
    } else {
      changed_.wait(lock);  // for the step's thread, which copies it: it waits for nobody
    }
  }
  under_way_ = false;
  return std::nullopt;
}

void CheckpointStaging::give_up(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (!under_way_ || !reason_.empty()) return;
  reason_ = reason;
  changed_.notify_all();
}

std::string CheckpointStaging::reason() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

}  // namespace ballot
