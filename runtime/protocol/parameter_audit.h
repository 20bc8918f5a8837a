// Whose parameters differ: the digests of parameters in workers' pulses, compared where positions
// are equal.
//
// Equal positions mean equal parameters, bit for bit, so a difference is a damaged replica: a
// flipped bit, or arithmetic that is not the others'. A strict majority of at least three that
// have told of a position judges who is wrong. Where there is none, replay judges (D33): all that
// differ rebuild their parameters, each from the newest checkpoint and its own journal. If they
// still differ then, it is only known that they do, until they have agreed again.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "runtime/protocol/messages.h"

namespace ballot {

class ParameterAudit {
 public:
  // The newest pulse of each worker that is heard, and who is in the term: nobody is sent to
  // replay before all of those who are heard of it have told of the position.
  void look(const std::vector<const Pulse*>& pulses, const std::set<Identity>& term = {});

  // Who is wrong now, with the reason. A worker that rebuilds its parameters does so as another
  // incarnation.
  const std::map<Identity, std::string>& wrong() const { return wrong_; }
  // Who are to rebuild their parameters since no majority judges, with the reason.
  const std::map<Identity, std::string>& to_replay() const { return to_replay_; }
  // Who differ, where no majority judges; until they agree again. Empty: nobody.
  const std::string& finding() const { return finding_; }

 private:
  using Said = std::map<Position, std::map<Digest, std::set<Identity>>>;
  void look_at_differing(const Said& said);
  void look_at_replayed(const Said& said, const std::vector<const Pulse*>& pulses);
  void send_to_replay(const Said& said, const std::set<Identity>& term);

  std::map<Identity, std::string> wrong_, to_replay_;
  std::set<Identity> replayed_;      // who have been sent, by what they were
  std::int64_t replayed_after_ = 0;  // the furthest step told of then
  bool agreed_ = false;              // with somebody since
  std::string replay_said_;
  std::set<Identity> differing_;
  std::int64_t since_ = 0;  // the step after which they differed first
  std::string finding_;
};

}  // namespace ballot
