// Scanning a shard: what is whole, where it ends, and whether its chain holds.
#include <algorithm>

#include "core/error.h"
#include "runtime/journal/format.h"
#include "runtime/journal/journal.h"

namespace ballot {
namespace {

constexpr std::uint64_t kWindow = std::uint64_t{1} << 20;  // bytes looked at at once

// A frame whose header and payload are whole.
struct WholeFrame {
  journal::FrameHeader header;
  std::uint64_t offset = 0;
  std::vector<std::byte> payload;
};

// What is wrong where there is none.
struct FrameOrProblem {
  std::optional<WholeFrame> frame;
  std::string problem;
};

FrameOrProblem read_frame(Disk& disk, const std::string& path, std::int64_t first_step,
                          std::uint64_t offset, std::uint64_t file_size) {
  const std::uint64_t seed = journal::frame_seed(first_step, offset);
  const std::vector<std::byte> head = disk.read(path, offset, journal::kFrameHeaderBytes);
  const auto header = journal::read_frame_header(head, seed);
  if (!header) return {std::nullopt, "no whole frame header"};
  const std::uint64_t left = file_size - offset - journal::kFrameHeaderBytes;
  if (header->length > left || header->length % 8 != 0)
    return {std::nullopt, fmt::format("a frame of {} bytes, {} are left", header->length, left)};
  WholeFrame frame{*header, offset,
                   disk.read(path, offset + journal::kFrameHeaderBytes, header->length)};
  if (frame.payload.size() != header->length)
    return {std::nullopt,
            fmt::format("a frame of {} bytes, {} were read", header->length, frame.payload.size())};
  if (journal::frame_checksum(frame.payload, seed) != header->checksum)
    return {std::nullopt, fmt::format("the frame of step {} has another checksum than its header "
                                      "says",
                                      header->step)};
  return {std::move(frame), ""};
}

// The first whole frame at or after `from`, if there is any: then damage before it is no torn tail.
std::optional<WholeFrame> find_whole_frame(Disk& disk, const std::string& path,
                                           std::int64_t first_step, std::uint64_t from,
                                           std::uint64_t file_size) {
  for (std::uint64_t begin = (from + 7) / 8 * 8; begin + journal::kFrameHeaderBytes <= file_size;) {
    const std::vector<std::byte> window =
        disk.read(path, begin, kWindow + journal::kFrameHeaderBytes);
    if (window.size() < journal::kFrameHeaderBytes) break;
    const std::uint64_t last =
        std::min<std::uint64_t>(kWindow, window.size() - journal::kFrameHeaderBytes + 1);
    for (std::uint64_t at = 0; at < last; at += 8) {
      const auto bytes = std::span(window).subspan(at, journal::kFrameHeaderBytes);
      if (!journal::read_frame_header(bytes, journal::frame_seed(first_step, begin + at))) continue;
      FrameOrProblem found = read_frame(disk, path, first_step, begin + at, file_size);
      if (found.frame) return std::move(found.frame);
    }
    begin += kWindow;
  }
  return std::nullopt;
}

}  // namespace

JournalReader::JournalReader(Disk& disk, std::string folder, OnDamage on_damage)
    : disk_(disk), folder_(std::move(folder)) {
  try {
    scan();
  } catch (const CorruptFile& damage) {
    if (on_damage == OnDamage::refuse) throw;
    damage_ = damage.what();
  }
}

void JournalReader::scan() {
  std::vector<std::int64_t> first_steps;
  for (const std::string& name : disk_.list(folder_))
    if (const auto step = journal::first_step_of(name)) first_steps.push_back(*step);
  std::ranges::sort(first_steps);
  for (const std::int64_t step : first_steps) {
    Segment segment;
    segment.path = folder_ + "/" + journal::segment_name(step);
    segment.first_step = step;
    segments_.push_back(std::move(segment));
  }
  for (std::size_t i = 0; i < segments_.size(); ++i) scan_segment(i, i + 1 == segments_.size());
}

void JournalReader::scan_segment(std::size_t index, bool last) {
  Segment& segment = segments_[index];
  segment.file_size = disk_.size_bytes(segment.path);
  const auto follows = [&](std::uint64_t from) {
    return find_whole_frame(disk_, segment.path, segment.first_step, from, segment.file_size);
  };
  const auto header = journal::read_segment_header(
      disk_.read(segment.path, 0, journal::kSegmentHeaderBytes), segment.path);
  if (!header) {
    // The segment before was made durable before this one was begun: only the newest can be torn.
    if (const auto frame = follows(0); frame || !last)
      throw CorruptFile(
          "{}: its header is damaged, and {} follows", segment.path,
          frame ? fmt::format("a whole frame of step {}", frame->header.step) : "another segment");
    segment.headless = true;
    torn_bytes_ = segment.file_size;
    return;
  }
  if (header->start.step != segment.first_step - 1)
    throw CorruptFile("{} says that it follows step {}", segment.path, header->start.step);
  if (index == 0) {
    run_ = header->run;
    begin_ = end_ = header->start;
  } else if (header->run != run_ || header->start != end_) {
    throw CorruptFile(
        "{} follows step {} with digest {}, the segment before it ends at step {} "
        "with {}",
        segment.path, header->start.step, to_string(header->start.digest), end_.step,
        to_string(end_.digest));
  }
  segment.start = header->start;
  segment.size = journal::kSegmentHeaderBytes;
  while (segment.size < segment.file_size) {
    const std::uint64_t offset = segment.size;
    FrameOrProblem found =
        read_frame(disk_, segment.path, segment.first_step, offset, segment.file_size);
    if (!found.frame) {
      const auto next = follows(offset + 8);
      if (next || !last)
        throw CorruptFile("{}: damaged at byte {}: {}; {} follows", segment.path, offset,
                          found.problem,
                          next ? fmt::format("a whole frame of step {} at byte {}",
                                             next->header.step, next->offset)
                               : "another segment");
      torn_bytes_ = segment.file_size - offset;
      return;
    }
    const WholeFrame& frame = *found.frame;
    const std::uint64_t at = offset + journal::kFrameHeaderBytes;
    if (frame.header.kind == journal::kRecordFrame) {
      const Record record = decode_record(frame.payload, segment.path, at, Depth::flags);
      if (record.step != frame.header.step || record.step != end_.step + 1 ||
          record.previous != end_.digest || record.term < end_term())
        throw CorruptFile(
            "{} at byte {}: step {} of term {} after {}, expected step {} of term {} or later "
            "after {}",
            segment.path, offset, record.step, record.term, to_string(record.previous),
            end_.step + 1, end_term(), to_string(end_.digest));
      entries_.push_back(entry_for(record, index, at, frame.header.length));
      end_ = entries_.back().position;
    } else if (frame.header.kind == journal::kAppliedFrame) {
      const AppliedRecord applied = decode_applied(frame.payload, segment.path, at);
      if (applied.step != frame.header.step || applied.step > end_.step)
        throw CorruptFile("{} at byte {}: digests after step {}, the records end at {}",
                          segment.path, offset, applied.step, end_.step);
      if (applied.step > begin_.step) {  // else its record is in a segment that was deleted
        Entry& entry = entries_[static_cast<std::size_t>(applied.step - begin_.step - 1)];
        entry.applied_segment = index;
        entry.applied_offset = at;
        entry.applied_length = frame.header.length;
      }
    } else {
      throw CorruptFile("{} at byte {}: a frame of kind {}, expected {} or {}", segment.path,
                        offset, frame.header.kind, journal::kRecordFrame, journal::kAppliedFrame);
    }
    segment.size = at + frame.header.length;
  }
}

JournalReader::Entry JournalReader::entry_for(const Record& head, std::size_t segment,
                                              std::uint64_t offset, std::uint64_t length) {
  Entry entry;
  entry.position = head.position();
  entry.term = head.term;
  for (const ChunkVerdictRecord& chunk : head.chunks) entry.present.push_back(chunk.present);
  for (const MeanRecord& mean : head.means) entry.present.push_back(mean.present);
  entry.segment = segment;
  entry.offset = offset;
  entry.length = length;
  return entry;
}

std::int64_t JournalReader::end_term() const {
  return entries_.empty() ? 0 : entries_.back().term;
}

std::int64_t JournalReader::term_of(std::int64_t step) const {
  return entry_of(step).term;
}

const std::vector<bool>& JournalReader::present(std::int64_t step) const {
  return entry_of(step).present;
}

bool JournalReader::contains(const Position& position) const {
  return position_after(position.step) == position;
}

std::optional<Position> JournalReader::position_after(std::int64_t step) const {
  if (step < begin_.step || step > end_.step) return std::nullopt;
  return step == begin_.step ? begin_ : entry_of(step).position;
}

const JournalReader::Entry& JournalReader::entry_of(std::int64_t step) const {
  require(step > begin_.step && step <= end_.step, "{}: step {}, it holds {} to {}", folder_, step,
          begin_.step + 1, end_.step);
  return entries_[static_cast<std::size_t>(step - begin_.step - 1)];
}

Record JournalReader::read(std::int64_t step) const {
  const Entry& entry = entry_of(step);
  const std::string& path = segments_[entry.segment].path;
  Record record = decode_record(disk_.read(path, entry.offset, entry.length), path, entry.offset);
  if (const Position found = record.position(); found != entry.position)
    throw CorruptFile("{} at byte {}: step {} with digest {}, it was step {} with {}", path,
                      entry.offset, found.step, to_string(found.digest), entry.position.step,
                      to_string(entry.position.digest));
  return record;
}

std::vector<Record> JournalReader::read_after(const Position& position,
                                              std::uint64_t most_bytes) const {
  require(contains(position), "{}: records after step {} with {}, which it does not hold", folder_,
          position.step, to_string(position.digest));
  std::vector<Record> records;
  std::uint64_t bytes = 0;
  for (std::int64_t step = position.step + 1; step <= end_.step; ++step) {
    bytes += entry_of(step).length;
    if (!records.empty() && bytes > most_bytes) break;
    records.push_back(read(step));
  }
  return records;
}

std::optional<AppliedRecord> JournalReader::applied(std::int64_t step) const {
  const Entry& entry = entry_of(step);
  if (entry.applied_length == 0) return std::nullopt;
  const std::string& path = segments_[entry.applied_segment].path;
  AppliedRecord applied = decode_applied(
      disk_.read(path, entry.applied_offset, entry.applied_length), path, entry.applied_offset);
  if (applied.step != step)
    throw CorruptFile("{} at byte {}: digests after step {}, they were after {}", path,
                      entry.applied_offset, applied.step, step);
  return applied;
}

std::uint64_t JournalReader::size_bytes() const {
  std::uint64_t bytes = 0;
  for (const Segment& segment : segments_) bytes += segment.size;
  return bytes;
}

}  // namespace ballot
