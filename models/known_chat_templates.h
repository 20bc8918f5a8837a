// The published chat templates that are built in here, by the digest of their text: line breaks as
// such, however Jinja spells them, and none at the end.
#pragma once

#include <array>

namespace ballot {

struct KnownChatTemplate {
  const char* name;
  const char* digest;
};

// Of Llama 2 chat, Llama 3 Instruct (two versions), ChatML, SmolLM2 Instruct, TinyLlama chat, Llama
// 3.2 Instruct and Llama 3.1 Instruct, as they stand in their tokenizer_config.json. Those of the
// last two are too long to be repeated in a test; their SHA-256 are 5816fce1..223a4 and
// e10ca381..4b65, as others have published them.
inline constexpr std::array<KnownChatTemplate, 8> kKnownChatTemplates = {{
    {"llama2", "97aac26c37e4a675cb7c5112dfc4a3b0"},
    {"llama3", "09facc0e4aa943189799ad6e2dea0594"},
    {"llama3", "8f20b9eda669ce10b97891b7adc1beb8"},
    {"chatml", "f0a6a8278439fdb056191e205a440263"},
    {"smollm2", "98f63cc3d421d28f99ab995e9629dacd"},
    {"zephyr", "5ae4edc1a6c08aa61db34e9fc60441d8"},
    {"llama3.1", "51839d38c9ee4e80ba28f0d41aa45594"},
    {"llama3.1", "05ac78533d6fb928da8ae4616203881a"},
}};

}  // namespace ballot
