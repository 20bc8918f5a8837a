#include "runtime/coordinator/call_token.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "core/error.h"

namespace ballot {
namespace {

std::string derive(std::string_view secret, std::string_view purpose, std::string_view run) {
  if (secret.empty()) return "";
  const std::string text = fmt::format("ballot coordinator {}\n{}", purpose, run);
  std::string result(EVP_MAX_MD_SIZE, '\0');
  unsigned length = 0;
  const unsigned char* made = HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
                                   reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                                   reinterpret_cast<unsigned char*>(result.data()), &length);
  require(made != nullptr, "HMAC of {} bytes failed", text.size());
  result.resize(length);
  return result;
}

}  // namespace

std::string member_token(std::string_view secret, std::string_view run) {
  return derive(secret, "member", run);
}

std::string reader_token(std::string_view secret) {
  return derive(secret, "reader", "");
}

}  // namespace ballot
