// Small data sets for the tests of samples, and the tokenizer of bytes that they are read by.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/file.h"
#include "runtime/token_source.h"
#include "tests/support/temporary_folder.h"

namespace ballot {

inline const Tokenizer& byte_tokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer = [] {
    const TemporaryFolder folder;
    write_file_synced(folder.file("tokenizer.json"), std::string_view(byte_tokenizer_json()));
    write_file_synced(folder.file("tokenizer_config.json"),
                      std::string_view(byte_tokenizer_config_json()));
    return read_tokenizer(folder.path());
  }();
  return *tokenizer;
}

// Documents of the given lengths: document d's tokens are 100 d, 100 d + 1, ...; the first
// `masked` of each are not trained on.
inline std::vector<std::uint32_t> documents_of(const std::vector<int>& lengths, int masked = 0) {
  std::vector<std::uint32_t> words;
  for (std::size_t d = 0; d < lengths.size(); ++d)
    for (int i = 0; i < lengths[d]; ++i)
      words.push_back(static_cast<std::uint32_t>(100 * static_cast<int>(d) + i) |
                      (i == 0 ? kBeginsDocument : 0) | (i < masked ? kNotTrained : 0));
  return words;
}

inline TokenSource source_of(const std::string& path) {
  TokenSource source;
  source.path = path;
  return source;
}

inline DocumentRules rules_of(Windows windows, TrainOn train_on = TrainOn::automatic) {
  DocumentRules rules;
  rules.windows = windows;
  rules.train_on = train_on;
  return rules;
}

inline DataReader reader_of(const DocumentRules& rules = {}, const std::string& folder = "") {
  return {byte_tokenizer(), rules, folder};
}

}  // namespace ballot
