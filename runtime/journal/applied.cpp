#include "runtime/journal/applied.h"

#include "runtime/journal/byte_io.h"

namespace ballot {

std::vector<std::byte> encode(const AppliedRecord& applied) {
  require(applied.step >= 1 && applied.tokens_total >= 0, "digests after step {}, {} tokens",
          applied.step, applied.tokens_total);
  ByteWriter out(32 + 8 * applied.tensors.size());
  out.put(applied.step);
  out.put(applied.parameters);
  out.put(applied.tokens_total);
  out.put(static_cast<std::uint64_t>(applied.tensors.size()));
  out.put_all(applied.tensors);
  return out.take();
}

AppliedRecord decode_applied(std::span<const std::byte> bytes, std::string_view source,
                             std::uint64_t offset) {
  ByteReader in(bytes, source, offset);
  AppliedRecord applied;
  applied.step = in.get<std::int64_t>("step");
  if (applied.step < 1) in.fail("step {}, expected 1 or more", applied.step);
  applied.parameters = in.get<std::uint64_t>("parameter digest");
  applied.tokens_total = in.get<std::int64_t>("tokens");
  if (applied.tokens_total < 0) in.fail("{} tokens", applied.tokens_total);
  const auto tensors = in.get<std::uint64_t>("number of tensors");
  applied.tensors = in.get_all<std::uint64_t>(tensors, "digests of tensors");
  if (in.left() != 0) in.fail("{} bytes after the digests", in.left());
  return applied;
}

}  // namespace ballot
