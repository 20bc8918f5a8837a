#include "runtime/elastic/elastic_journal.h"

#include <utility>

#include "core/error.h"

namespace ballot {
namespace {

std::uint64_t size_of(const Record& record) {
  std::uint64_t words = 0, floats = 0;
  for (const ChunkVerdictRecord& c : record.chunks)
    words += c.bits.size() + c.held_blocks.size() + c.held_elements.size();
  for (const MeanRecord& m : record.means) floats += m.values.size();
  return 8 * words + 4 * floats + 4096;
}

}  // namespace

ElasticJournal::ElasticJournal(Disk& disk, Options options)
    : disk_(disk), options_(std::move(options)), start_(options_.start) {
  writer_ = std::make_unique<JournalWriter>(open(), options_.writer);
}

std::unique_ptr<Journal> ElasticJournal::open() const {
  return std::make_unique<Journal>(disk_, options_.folder, options_.run, start_, options_.journal);
}

Position ElasticJournal::begin() const {
  Position position;
  const std::shared_lock lock(mutex_);
  writer_->look([&](const JournalReader& journal) { position = journal.begin(); });
  return position;
}

Position ElasticJournal::end() const {
  Position position;
  const std::shared_lock lock(mutex_);
  writer_->look([&](const JournalReader& journal) { position = journal.end(); });
  return position;
}

bool ElasticJournal::contains(const Position& position) const {
  bool contains = false;
  const std::shared_lock lock(mutex_);
  writer_->look([&](const JournalReader& journal) { contains = journal.contains(position); });
  return contains;
}

History ElasticJournal::history_from(const Position& position, std::int64_t term) const {
  History history(position, term);
  const std::shared_lock lock(mutex_);
  writer_->look([&](const JournalReader& journal) {
    require(journal.contains(position), "{} does not hold step {} with {}", journal.folder(),
            position.step, to_string(position.digest));
    for (std::int64_t step = position.step + 1; step <= journal.end().step; ++step)
      history.append(*journal.position_after(step), journal.term_of(step));
  });
  return history;
}

Record ElasticJournal::read(std::int64_t step) const {
  Record record;
  const std::shared_lock lock(mutex_);
  writer_->look([&](const JournalReader& journal) { record = journal.read(step); });
  return record;
}

std::optional<AppliedRecord> ElasticJournal::applied(std::int64_t step) const {
  std::optional<AppliedRecord> applied;
  const std::shared_lock lock(mutex_);
  writer_->look([&](const JournalReader& journal) { applied = journal.applied(step); });
  return applied;
}

void ElasticJournal::append(std::shared_ptr<const Record> record) {
  const Stopwatch watch;
  double waited = 0;
  {
    const std::shared_lock lock(mutex_);
    waited = writer_->append(*record, ShardPlan{});
  }
  const std::lock_guard lock(recent_mutex_);
  cost_.seconds += watch.elapsed();
  cost_.waited_seconds += waited;
  appended_step_ = record->step;
  recent_size_ += size_of(*record);
  recent_.push_back(std::move(record));
  while (recent_.size() > 2 && recent_size_ > options_.recent_bytes) {
    recent_size_ -= size_of(*recent_.front());
    recent_.pop_front();
  }
}

void ElasticJournal::append(const AppliedRecord& applied) const {
  const Stopwatch watch;
  double waited = 0;
  {
    const std::shared_lock lock(mutex_);
    waited = writer_->append(applied);
  }
  const std::lock_guard lock(recent_mutex_);
  cost_.seconds += watch.elapsed();
  cost_.waited_seconds += waited;
}

ElasticJournal::Cost ElasticJournal::take_cost() {
  const std::shared_lock lock(mutex_);
  const std::lock_guard recent(recent_mutex_);
  const std::uint64_t bytes = writer_->written_bytes();
  cost_.written_bytes += bytes - std::exchange(seen_bytes_, bytes);
  cost_.behind_steps = std::max<std::int64_t>(0, appended_step_ - writer_->durable().step);
  return std::exchange(cost_, {});
}

Position ElasticJournal::durable() const {
  const std::shared_lock lock(mutex_, std::try_to_lock);
  const std::lock_guard recent(recent_mutex_);
  if (lock) durable_ = writer_->durable();
  return durable_;
}

std::vector<std::shared_ptr<const Record>> ElasticJournal::after(const Position& position,
                                                                 std::int64_t last_step,
                                                                 std::uint64_t most_bytes) const {
  std::vector<std::shared_ptr<const Record>> records;
  {
    const std::lock_guard lock(recent_mutex_);
    std::uint64_t bytes = 0;
    for (const auto& record : recent_) {
      if (record->step <= position.step || record->step > last_step) continue;
      if (records.empty() &&
          (record->step != position.step + 1 || record->previous != position.digest))
        break;
      bytes += size_of(*record);
      if (!records.empty() && bytes > most_bytes) break;
      records.push_back(record);
    }
  }
  if (!records.empty()) return records;
  const std::shared_lock lock(mutex_);
  writer_->look([&](const JournalReader& journal) {
    if (!journal.contains(position)) return;
    for (Record& record : journal.read_after(position, most_bytes)) {
      if (record.step > last_step) break;
      records.push_back(std::make_shared<const Record>(std::move(record)));
    }
  });
  return records;
}

template <class Change>
void ElasticJournal::change(const Change& change) {
  const std::unique_lock lock(mutex_);
  writer_->flush();  // an error of the disk comes out here
  writer_.reset();
  auto journal = open();
  change(*journal);
  start_ = journal->begin();  // what an empty folder does not say
  writer_ = std::make_unique<JournalWriter>(std::move(journal), options_.writer);
  const std::lock_guard recent(recent_mutex_);
  recent_.clear();
  recent_size_ = 0;
  seen_bytes_ = writer_->written_bytes();
}

void ElasticJournal::cut_after(const Position& position) {
  change([&](Journal& journal) { journal.cut_after(position); });
}

void ElasticJournal::restart_at(const Position& position) {
  change([&](Journal& journal) { journal.restart_at(position); });
}

void ElasticJournal::flush() const {
  const std::shared_lock lock(mutex_);
  writer_->flush();
}

void ElasticJournal::forget_until(std::int64_t step) const {
  const std::shared_lock lock(mutex_);
  writer_->start_segment();
  writer_->forget_until(step);
}

}  // namespace ballot
