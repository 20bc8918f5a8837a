#include "collectives/peer_reports.h"

#include "core/error.h"

namespace ballot {

PeerReports::PeerReports(Transport& transport, Purpose purpose, std::size_t bytes)
    : rank_(transport.rank()),
      bytes_(bytes),
      memory_(bytes * static_cast<std::size_t>(transport.size())) {
  require(bytes > 0, "reports of no byte");
  const auto ranks = static_cast<std::size_t>(transport.size());
  for (int from = 0; from < transport.size(); ++from) {
    std::vector<SendParts> to(ranks);
    std::vector<ReceiveParts> in(ranks);
    for (int other = 0; other < transport.size(); ++other)
      if (from == rank_ && other != rank_) to[static_cast<std::size_t>(other)] = {message(rank_)};
    if (from != rank_) in[static_cast<std::size_t>(from)] = {message(from)};
    reports_.push_back(transport.open_exchange(purpose, to, in));
  }
}

void PeerReports::expect() {
  require(!expected_, "a round of reports begins in another one");
  for (std::size_t r = 0; r < reports_.size(); ++r)
    if (static_cast<int>(r) != rank_) reports_[r]->start();
  expected_ = true;
  sent_ = false;
}

void PeerReports::check() {
  next_ = (next_ + 1) % reports_.size();
  if (expected_ && static_cast<int>(next_) != rank_) reports_[next_]->done();
}

void PeerReports::send() {
  require(expected_ && !sent_, "a report outside a round, or a second one");
  reports_[static_cast<std::size_t>(rank_)]->start();
  sent_ = true;
}

bool PeerReports::has_come(int rank) {
  return rank == rank_ ? sent_ : expected_ && reports_[static_cast<std::size_t>(rank)]->done();
}

bool PeerReports::done() {
  if (!sent_) return false;
  for (const auto& report : reports_)
    if (!report->done()) return false;
  expected_ = sent_ = false;
  return true;
}

Transfer* PeerReports::missing() {
  if (!expected_) return nullptr;
  for (std::size_t r = 0; r < reports_.size(); ++r)
    if ((static_cast<int>(r) != rank_ || sent_) && !reports_[r]->done()) return reports_[r].get();
  return nullptr;
}

}  // namespace ballot
