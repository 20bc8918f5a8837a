// What all ranks of a collective must have in common, compared before anything is elected.
//
// Every rank gives the same list of names; a value that differs is a ConfigError on every rank that
// names the thing, both ranks and both values.
#pragma once

#include <string>
#include <vector>

#include "collectives/transport/transport.h"

namespace ballot {

struct Fact {
  std::string name;   // "parameters", "ties"
  std::string value;  // for people
};

// Collective. Facts are told in text of any length; the library's version of this format first.
void require_agreement(Transport& transport, const std::vector<Fact>& facts, Deadline deadline);

}  // namespace ballot
