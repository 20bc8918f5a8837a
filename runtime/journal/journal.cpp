// Appending, cutting and forgetting: what is written when, and in which order it is made durable.
#include "runtime/journal/journal.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "runtime/journal/format.h"

namespace ballot {

Journal::Journal(Disk& disk, std::string folder, const Digest& run, const Position& start,
                 JournalOptions options)
    : JournalReader(disk, std::move(folder)), options_(options), run_digest_(run) {
  if (has_segments() && !segments_.front().headless && run_ != run)
    throw DataError("{} is the journal of run {}, expected run {}", folder_, to_string(run_),
                    to_string(run));
  run_ = run;
  if (!has_segments()) {
    disk_.make_folder(folder_);
    const std::string parent = std::filesystem::path(folder_).parent_path().string();
    disk_.sync_folder(parent.empty() ? "." : parent);
  }
  cut_torn_tail();
  if (entries_.empty()) {
    while (!segments_.empty()) drop_last_segment();
    begin_ = end_ = start;
  } else {
    // A killed process's last writes may still be in the system's memory only.
    file_ = disk_.open_append(segments_.back().path);
    file_->sync();
    disk_.sync_folder(folder_);
  }
  durable_ = end_;
}

void Journal::cut_torn_tail() {
  if (segments_.empty()) return;
  if (segments_.back().headless)
    drop_last_segment();
  else if (segments_.back().file_size > segments_.back().size)
    disk_.truncate(segments_.back().path, segments_.back().size);
  torn_bytes_ = 0;
}

// Newest first and each durably, so that what a crash leaves is a prefix.
void Journal::drop_last_segment() {
  disk_.remove(segments_.back().path);
  disk_.sync_folder(folder_);
  segments_.pop_back();
}

void Journal::require_usable() const {
  if (failure_) std::rethrow_exception(failure_);
}

template <class Work>
void Journal::guarded(const Work& work) {
  require_usable();
  try {
    work();
  } catch (...) {
    failure_ = std::current_exception();
    file_.reset();
    throw;
  }
}

void Journal::append_encoded(std::span<const std::byte> bytes) {
  require_usable();
  const Record head = decode_record(bytes, "a record to append", 0, Depth::flags);
  require(head.step == end_.step + 1 && head.previous == end_.digest && head.term >= end_term(),
          "{}: step {} of term {} after {} appended to a journal that ends at step {} of term {} "
          "with {}",
          folder_, head.step, head.term, to_string(head.previous), end_.step, end_term(),
          to_string(end_.digest));
  guarded([&] {
    if (!segments_.empty() && segments_.back().size >= options_.segment_bytes) full_ = true;
    if (segments_.empty() || full_) open_segment();
    Entry entry = entry_for(head, segments_.size() - 1,
                            segments_.back().size + journal::kFrameHeaderBytes, bytes.size());
    write_frame(journal::kRecordFrame, head.step, bytes);
    entries_.push_back(std::move(entry));
    end_ = entries_.back().position;
  });
}

void Journal::append(const AppliedRecord& applied) {
  require_usable();
  require(applied.step <= end_.step, "{}: digests after step {}, its records end at {}", folder_,
          applied.step, end_.step);
  if (applied.step <= begin_.step) return;  // its record is not here (any more)
  const std::vector<std::byte> bytes = encode(applied);
  guarded([&] {
    Entry& entry = entries_[static_cast<std::size_t>(applied.step - begin_.step - 1)];
    entry.applied_segment = segments_.size() - 1;
    entry.applied_offset = segments_.back().size + journal::kFrameHeaderBytes;
    entry.applied_length = bytes.size();
    write_frame(journal::kAppliedFrame, applied.step, bytes);
  });
}

// The segment before it is made durable first, so that only the newest can have a torn tail.
void Journal::open_segment() {
  if (file_) {
    file_->sync();
    durable_ = end_;
    file_.reset();
  }
  Segment segment;
  segment.first_step = end_.step + 1;
  segment.path = folder_ + "/" + journal::segment_name(segment.first_step);
  segment.start = end_;
  file_ = disk_.open_append(segment.path);
  require(file_->size_bytes() == 0, "{} has {} bytes already", segment.path, file_->size_bytes());
  const std::vector<std::byte> header =
      journal::encode(journal::SegmentHeader{run_digest_, segment.start});
  file_->append(header);
  file_->sync();
  disk_.sync_folder(folder_);
  segment.size = header.size();
  written_bytes_ += header.size();
  segments_.push_back(std::move(segment));
  full_ = false;
}

void Journal::write_frame(std::uint32_t kind, std::int64_t step,
                          std::span<const std::byte> payload) {
  Segment& segment = segments_.back();
  if (!file_) file_ = disk_.open_append(segment.path);
  const std::uint64_t seed = journal::frame_seed(segment.first_step, segment.size);
  journal::FrameHeader header;
  header.kind = kind;
  header.step = step;
  header.length = payload.size();
  header.checksum = journal::frame_checksum(payload, seed);
  file_->append(journal::encode(header, seed));
  file_->append(payload);
  const std::uint64_t written = journal::kFrameHeaderBytes + payload.size();
  segment.size += written;
  written_bytes_ += written;
}

Position Journal::sync() {
  guarded([&] {
    if (file_) file_->sync();
    durable_ = end_;
  });
  return durable_;
}

void Journal::start_segment() {
  require_usable();
  full_ = true;
}

void Journal::cut_after(const Position& position) {
  require_usable();
  require(contains(position), "{}: cut after step {} with {}, which it does not hold", folder_,
          position.step, to_string(position.digest));
  if (position == end_) return;
  guarded([&] {
    const std::size_t first_segment = entry_of(position.step + 1).segment;
    const std::uint64_t first_offset = entry_of(position.step + 1).offset;
    file_.reset();
    while (!segments_.empty() && segments_.back().start.step >= position.step) drop_last_segment();
    if (!segments_.empty() && first_segment < segments_.size()) {
      const std::uint64_t size = first_offset - journal::kFrameHeaderBytes;
      disk_.truncate(segments_.back().path, size);
      segments_.back().size = size;
    } else if (!segments_.empty()) {
      file_ = disk_.open_append(segments_.back().path);  // what it holds may not be durable yet
      file_->sync();
    }
    entries_.resize(static_cast<std::size_t>(position.step - begin_.step));
    for (Entry& entry : entries_)
      if (entry.applied_length != 0 &&
          (entry.applied_segment >= segments_.size() ||
           entry.applied_offset + entry.applied_length > segments_[entry.applied_segment].size))
        entry.applied_length = 0;
    end_ = durable_ = position;
  });
}

void Journal::forget_until(std::int64_t step) {
  // Oldest first and each durably, so that what a crash leaves has no hole.
  guarded([&] {
    while (segments_.size() > 1 && segments_[1].start.step <= step) {
      disk_.remove(segments_.front().path);
      disk_.sync_folder(folder_);
      const std::int64_t gone = segments_[1].start.step - begin_.step;
      begin_ = segments_[1].start;
      segments_.erase(segments_.begin());
      entries_.erase(entries_.begin(), entries_.begin() + gone);
      for (Entry& entry : entries_) {
        --entry.segment;
        if (entry.applied_length != 0) --entry.applied_segment;
      }
    }
  });
}

void Journal::restart_at(const Position& start) {
  guarded([&] {
    file_.reset();
    while (!segments_.empty()) drop_last_segment();
    entries_.clear();
    begin_ = end_ = durable_ = start;
    full_ = false;
  });
}

}  // namespace ballot
