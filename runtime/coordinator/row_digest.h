// The digest that lies beside a stored row: of everything that is read, so that a flipped bit, or a
// row of another run or revision, is found.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/digest.h"

namespace ballot {

inline std::string digest_of_row(const std::string& run, std::int64_t revision,
                                 const std::string& body) {
  DigestStream stream;
  stream.add(static_cast<std::uint64_t>(run.size()));
  stream.add(std::as_bytes(std::span(run)));
  stream.add(static_cast<std::uint64_t>(revision));
  stream.add(std::as_bytes(std::span(body)));
  return to_string(stream.digest());
}

}  // namespace ballot
