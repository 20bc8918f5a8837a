// An elastic worker's journal: what is read while it is written, and going back.
#include "runtime/elastic/elastic_journal.h"

#include <gtest/gtest.h>

#include "journal_support.h"
#include "tests/support/memory_disk.h"

namespace ballot {
namespace {

class ElasticJournalTest : public testing::Test {
 protected:
  ElasticJournal::Options options(std::uint64_t recent_bytes = 1 << 20) const {
    ElasticJournal::Options options;
    options.folder = "shard";
    options.run = kTestRun;
    options.start = kTestStart;
    options.recent_bytes = recent_bytes;
    return options;
  }
  // Appends so many records after the end of `chain_`.
  void append(ElasticJournal& journal, int count, std::uint64_t seed = 0) {
    for (int i = 0; i < count; ++i) {
      const Position before = chain_.empty() ? kTestStart : chain_.back()->position();
      chain_.push_back(std::make_shared<const Record>(
          make_record(before, seed * 1000 + static_cast<std::uint64_t>(before.step) + 1)));
      journal.append(chain_.back());
    }
  }
  Position at(std::int64_t step) const {
    return step == 0 ? kTestStart : chain_[static_cast<std::size_t>(step - 1)]->position();
  }

  MemoryDisk disk_;
  std::vector<std::shared_ptr<const Record>> chain_;
};

TEST_F(ElasticJournalTest, ServesRecordsFromMemoryAndFromTheDiskAlike) {
  for (const std::uint64_t recent : {std::uint64_t{0}, std::uint64_t{1} << 30}) {
    chain_.clear();
    MemoryDisk disk;
    ElasticJournal journal(disk, options(recent));
    append(journal, 9);
    journal.flush();
    for (std::int64_t from = 0; from <= 9; ++from) {
      const auto records = journal.after(at(from), 8, std::uint64_t{1} << 30);
      ASSERT_EQ(static_cast<std::int64_t>(records.size()), std::max<std::int64_t>(0, 8 - from));
      for (std::size_t i = 0; i < records.size(); ++i)
        EXPECT_EQ(*records[i], *chain_[static_cast<std::size_t>(from) + i]);
    }
    EXPECT_EQ(journal.after(at(0), 9, 1).size(), 1u);               // one at least
    EXPECT_TRUE(journal.after({4, kTestRun}, 9, 1 << 20).empty());  // not on this history
  }
}

TEST_F(ElasticJournalTest, WhatItCostIsToldOnceAlsoAfterItWasBegunAnew) {
  ElasticJournal journal(disk_, options());
  append(journal, 6);
  journal.flush();
  const ElasticJournal::Cost cost = journal.take_cost();
  EXPECT_GT(cost.written_bytes, 0u);
  EXPECT_GT(cost.seconds, 0);
  EXPECT_EQ(cost.behind_steps, 0);
  EXPECT_EQ(journal.take_cost().written_bytes, 0u);
  journal.cut_after(at(3));
  chain_.resize(3);
  append(journal, 1, 7);
  journal.flush();
  const std::uint64_t one = journal.take_cost().written_bytes;
  EXPECT_GT(one, 0u);
  EXPECT_LT(one, cost.written_bytes);
}

TEST_F(ElasticJournalTest, GoesBackAndOnWithAnotherHistory) {
  {
    ElasticJournal journal(disk_, options());
    append(journal, 6);
    journal.cut_after(at(4));
    EXPECT_EQ(journal.end(), at(4));
    EXPECT_TRUE(journal.after(at(4), 6, 1 << 20).empty());  // nor from memory
    chain_.resize(4);
    append(journal, 3, 5);
    journal.flush();
    EXPECT_EQ(journal.durable(), at(7));
    const History history = journal.history_from(at(2), 1);
    EXPECT_EQ(history.last(), at(7));
    EXPECT_TRUE(history.contains(at(5)));
  }
  ElasticJournal again(disk_, options());
  EXPECT_EQ(again.end(), at(7));
  for (std::int64_t step = 1; step <= 7; ++step)
    EXPECT_EQ(again.read(step), *chain_[static_cast<std::size_t>(step - 1)]);
}

TEST_F(ElasticJournalTest, BegunAnewAtACheckpointItStaysThereWhenItIsCut) {
  ElasticJournal journal(disk_, options());
  append(journal, 3);
  const Position checkpoint{40, {4, 4}};
  journal.restart_at(checkpoint);
  EXPECT_EQ(journal.begin(), checkpoint);
  EXPECT_EQ(journal.end(), checkpoint);
  journal.cut_after(checkpoint);  // opens the folder again, which holds nothing
  EXPECT_EQ(journal.end(), checkpoint);
  const auto next = std::make_shared<const Record>(make_record(checkpoint, 3));
  journal.append(next);
  journal.cut_after(checkpoint);
  EXPECT_EQ(journal.end(), checkpoint);
  journal.append(next);
  journal.flush();
  EXPECT_EQ(journal.durable(), next->position());
  EXPECT_TRUE(journal.contains(checkpoint));
  EXPECT_FALSE(journal.contains(at(2)));
}

TEST_F(ElasticJournalTest, WhatALiveStepLeftIsFoundAgain) {
  ElasticJournal journal(disk_, options());
  append(journal, 2);
  journal.append(AppliedRecord{1, 77, 5, {1, 2}});
  journal.flush();
  ASSERT_TRUE(journal.applied(1).has_value());
  EXPECT_EQ(journal.applied(1)->parameters, 77u);
  EXPECT_FALSE(journal.applied(2).has_value());
}

}  // namespace
}  // namespace ballot
