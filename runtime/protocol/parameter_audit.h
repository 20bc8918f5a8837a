// Whose parameters differ: the digests of parameters in workers' pulses, compared where positions
// are equal.
//
// Equal positions mean equal parameters, bit for bit, so a difference is a damaged replica: a
// flipped bit, or arithmetic that is not the others'. A strict majority of at least three that
// have told of a position judges who is wrong; with fewer it is only known that they differ.
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
  // The newest pulse of each worker that is heard.
  void look(const std::vector<const Pulse*>& pulses);

  // Who is wrong now, with the reason. A worker that rebuilds its parameters does so as another
  // incarnation.
  const std::map<Identity, std::string>& wrong() const { return wrong_; }
  // Who differ, where no majority judges; until they agree again. Empty: nobody.
  const std::string& finding() const { return finding_; }

 private:
  void look_at_differing(const std::map<Position, std::map<Digest, std::set<Identity>>>& said);

  std::map<Identity, std::string> wrong_;
  std::set<Identity> differing_;
  std::int64_t since_ = 0;  // the step after which they differed first
  std::string finding_;
};

}  // namespace ballot
