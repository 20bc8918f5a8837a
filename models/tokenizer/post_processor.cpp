#include "models/tokenizer/post_processor.h"

namespace ballot {

using nlohmann::json;

PostProcessor PostProcessor::read(const json& value, Refusals& refusals) {
  PostProcessor processor;
  for (const json* const step : steps_of(value, "processors", "post_processor", refusals)) {
    const json& type = member(*step, "type");
    if (type == "TemplateProcessing") {
      processor.read_template(*step, refusals);
    } else if (type != "ByteLevel") {
      refusals.add(
          "post_processor {} is not supported, expected TemplateProcessing, ByteLevel, a Sequence "
          "of them or null",
          shown(type));
    }
  }
  return processor;
}

void PostProcessor::read_template(const json& value, Refusals& refusals) {
  const json& pieces = member(value, "single");
  const json& specials = member(value, "special_tokens");
  if (!pieces.is_array())
    return refusals.add("post_processor.single is {}, expected an array", shown(pieces));
  std::vector<std::int32_t> before, after;
  int sequences = 0;
  for (const json& piece : pieces) {
    if (member(member(piece, "Sequence"), "id") == "A") {
      ++sequences;
      continue;
    }
    const json& name = member(member(piece, "SpecialToken"), "id");
    const json& ids =
        name.is_string()
            ? member(member(specials, name.get_ref<const std::string&>().c_str()), "ids")
            : name;
    if (!ids.is_array()) {
      refusals.add("post_processor.single has {}, expected Sequence A or one of special_tokens",
                   shown(piece));
      continue;
    }
    for (const json& id : ids) {
      if (const std::optional<std::int32_t> token = as_token(id))
        (sequences == 0 ? before : after).push_back(*token);
      else
        refusals.add("post_processor.special_tokens {} has the id {}, expected one in [0, {})",
                     shown(name), shown(id), kMaxVocabulary);
    }
  }
  if (sequences != 1)
    refusals.add("post_processor.single has Sequence A {} times, expected once", sequences);
  before_.insert(before_.begin(), before.begin(), before.end());  // around what there was
  after_.insert(after_.end(), after.begin(), after.end());
}

}  // namespace ballot
