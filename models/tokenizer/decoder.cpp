#include "models/tokenizer/decoder.h"

#include <charconv>

#include "core/error.h"
#include "models/tokenizer/byte_alphabet.h"
#include "models/tokenizer/utf8.h"

namespace ballot {
namespace {

using nlohmann::json;

// "<0xNN>", as byte fallback spells a byte.
std::optional<char> fallback_byte(std::string_view symbol) {
  if (symbol.size() != 6 || !symbol.starts_with("<0x") || !symbol.ends_with(">"))
    return std::nullopt;
  unsigned value = 0;
  const char* const end = symbol.data() + 5;
  const auto read = std::from_chars(symbol.data() + 3, end, value, 16);
  if (read.ec != std::errc{} || read.ptr != end) return std::nullopt;
  return static_cast<char>(value);
}

}  // namespace

Decoder Decoder::read(const json& value, bool byte_level, Refusals& refusals) {
  Decoder decoder;
  if (value.is_null()) {
    if (!byte_level)
      refusals.add(
          "decoder null is not supported, expected a Sequence of Replace, ByteFallback, Fuse and "
          "Strip");
    decoder.each_.push_back({Kind::byte_level, {}, {}, 0, 0});
    return decoder;
  }
  bool fused = false;
  for (const json* const entry : steps_of(value, "decoders", "decoder", refusals)) {
    std::optional<Step> step = read_step(*entry, refusals);
    if (!step) continue;
    const Kind kind = step->kind;
    if (fused && (kind == Kind::byte_level || kind == Kind::byte_fallback))
      refusals.add("decoder {} follows one that fuses the tokens: not supported",
                   shown(member(*entry, "type")));
    if (kind != Kind::fuse) (fused ? decoder.all_ : decoder.each_).push_back(std::move(*step));
    fused = fused || kind == Kind::fuse || kind == Kind::byte_level;
  }
  if (!fused && decoder.each_.empty()) refusals.add("decoder {} does nothing", shown(value));
  return decoder;
}

std::optional<Decoder::Step> Decoder::read_step(const json& value, Refusals& refusals) {
  const json& type = member(value, "type");
  const json& content = member(value, "content");
  Step step;
  if (type == "ByteLevel") {
    step.kind = Kind::byte_level;
  } else if (type == "ByteFallback") {
    step.kind = Kind::byte_fallback;
  } else if (type == "Fuse") {
    step.kind = Kind::fuse;
  } else if (type == "Replace") {
    step.kind = Kind::replace;
    step.pattern = Pattern::read(member(value, "pattern"), "decoder", refusals);
    if (!content.is_string())
      refusals.add("decoder.content is {}, expected a text", shown(content));
    if (!step.pattern || !content.is_string()) return std::nullopt;
    step.text = content.get<std::string>();
  } else if (type == "Strip") {
    step.kind = Kind::strip;
    const std::optional<std::int32_t> start = as_token(member(value, "start")),
                                      stop = as_token(member(value, "stop"));
    const std::string text = content.is_string() ? content.get<std::string>() : std::string();
    if (text.empty() || utf8_length(text) != text.size() || !start || !stop) {
      refusals.add(
          "decoder Strip has content {}, start {} and stop {}, expected a character and "
          "two counts",
          shown(content), shown(member(value, "start")), shown(member(value, "stop")));
      return std::nullopt;
    }
    step.text = text;
    step.start = static_cast<std::size_t>(*start);
    step.stop = static_cast<std::size_t>(*stop);
  } else {
    refusals.add(
        "decoder {} is not supported, expected \"ByteLevel\", Replace, ByteFallback, Fuse, Strip "
        "or "
        "a Sequence of them",
        shown(type));
    return std::nullopt;
  }
  return step;
}

std::string Decoder::apply(const Step& step, std::string text) {
  switch (step.kind) {
    case Kind::fuse:
      return text;
    case Kind::byte_level:
      return bytes_of_symbols(text).value_or(text);
    case Kind::byte_fallback:
      if (const std::optional<char> byte = fallback_byte(text)) return std::string(1, *byte);
      return text;
    case Kind::strip: {
      std::string_view left = text;
      for (std::size_t i = 0; i < step.start && left.starts_with(step.text); ++i)
        left.remove_prefix(step.text.size());
      for (std::size_t i = 0; i < step.stop && left.ends_with(step.text); ++i)
        left.remove_suffix(step.text.size());
      return std::string(left);
    }
    case Kind::replace: {
      std::vector<Stretch> stretches;
      step.pattern->cut(text, stretches);
      std::string replaced;
      for (const Stretch& stretch : stretches)
        replaced += stretch.matched
                        ? std::string_view(step.text)
                        : std::string_view(text).substr(stretch.begin, stretch.end - stretch.begin);
      return replaced;
    }
  }
  return text;
}

std::string Decoder::bytes_of(std::string_view symbol) const {
  std::string text(symbol);
  for (const Step& step : each_) text = apply(step, std::move(text));
  return text;
}

std::string Decoder::finish(std::string text) const {
  for (const Step& step : all_) text = apply(step, std::move(text));
  return text;
}

}  // namespace ballot
