// Reads records one by one: the caller says how many.
#include "runtime/protocol/journal_log.h"

#include <algorithm>

#include "core/error.h"

namespace ballot {

std::vector<std::shared_ptr<const Record>> JournalLog::after(const Position& position,
                                                             std::int64_t last_step,
                                                             std::size_t most) const {
  require(journal_.contains(position), "step {} is not in the journal {}", position.step,
          journal_.folder());
  std::vector<std::shared_ptr<const Record>> records;
  const std::int64_t last = std::min(last_step, journal_.end().step);
  for (std::int64_t step = position.step + 1; step <= last && records.size() < most; ++step)
    records.push_back(std::make_shared<const Record>(journal_.read(step)));
  return records;
}

}  // namespace ballot
