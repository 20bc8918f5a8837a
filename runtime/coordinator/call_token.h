// What a call shows to be let in: derived from the job's secret (BALLOT_TOKEN) and the run's name.
//
// HMAC-SHA-256 of the purpose and the run, so that the secret itself is never sent, what was shown
// for one run opens no other, and what reads the status cannot join. It does not replace TLS: on a
// plain connection whoever listens can show it again.
#pragma once

#include <string>
#include <string_view>

namespace ballot {

// For Join and Pulses and Expel; 32 bytes, or empty without a secret.
std::string member_token(std::string_view secret, std::string_view run);
// For Status alone, which need not know the run's name.
std::string reader_token(std::string_view secret);

// The key of a call's metadata that holds it.
inline constexpr const char* kTokenKey = "ballot-token-bin";

}  // namespace ballot
