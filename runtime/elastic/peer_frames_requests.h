// What opens a link or a call between workers, as bytes: by hand, since it shares every value with
// the frames' heads, and so that one reader checks all that comes from peers.
//
// decode_...() takes bytes that nobody has looked at: the outcome is a value within its limits or a
// TransportError. encode...() is its inverse; what it is given is ours (LogicError).
#pragma once

#include <string>

#include "runtime/elastic/peer_frames.h"

namespace ballot {

inline constexpr std::size_t kMostRequestTextBytes = 200;  // the name of a run
inline constexpr std::size_t kMostPeerRequestBytes = 1024;

struct FetchRequest {
  std::string run;
  Fetch fetch;
};

std::string encode_hello(const Hello& hello);
std::string encode_fetch(const FetchRequest& request);
std::string encode_checkpoint_request(const std::string& run);

Hello decode_hello(ConstBytes bytes);
FetchRequest decode_fetch(ConstBytes bytes);
std::string decode_checkpoint_request(ConstBytes bytes);  // the run

}  // namespace ballot
