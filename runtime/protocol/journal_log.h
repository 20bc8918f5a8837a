// The protocol's record log over the journal on disk.
#pragma once

#include "runtime/journal/journal.h"
#include "runtime/protocol/record_log.h"

namespace ballot {

class JournalLog final : public RecordLog {
 public:
  explicit JournalLog(Journal& journal) : journal_(journal) {}
  Position begin() const override { return journal_.begin(); }
  Position end() const override { return journal_.end(); }
  void append(const Record& record) override { journal_.append(record); }
  Position sync() override { return journal_.sync(); }
  std::vector<std::shared_ptr<const Record>> after(const Position& position, std::int64_t last_step,
                                                   std::size_t most) const override;
  void cut_after(const Position& position) override { journal_.cut_after(position); }

 private:
  Journal& journal_;
};

}  // namespace ballot
