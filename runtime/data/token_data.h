// A data set's tokens, which of them are trained on, and where its documents begin: in memory, or
// in a mapped file that is read as it is needed.
//
// Immutable; readable from any thread. A document costs 8 bytes of memory beside its tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/digest.h"  // Digest
#include "core/file.h"    // MappedFile
#include "runtime/data/token_view.h"

namespace ballot {

// How samples are made of documents.
enum class Windows {
  automatic,  // packed where something is not trained on, else a stream
  stream,     // windows that start anywhere, across documents
  packed,     // whole documents, as many as fit into a window; none attends to another
  single      // one document a window
};
enum class TrainOn { automatic, all, completion };
enum class LongDocuments { cut, refuse };

// What [data] says of all its files.
struct DocumentRules {
  Windows windows = Windows::automatic;
  TrainOn train_on = TrainOn::automatic;
  LongDocuments long_documents = LongDocuments::cut;
  std::string chat_template = "auto";  // or a name, see models/chat_template.h
};

class TokenData {
 public:
  TokenData() = default;
  // Words in memory; the first begins a document, whether it says so or not.
  TokenData(std::string name, std::vector<std::uint32_t> words);
  // A mapped file's tokens. `starts`: of its documents, ascending from 0; empty: as the words say,
  // or one document.
  TokenData(std::string name, std::shared_ptr<const MappedFile> file, TokenView tokens,
            std::vector<std::int64_t> starts = {});

  const std::string& name() const { return name_; }  // the file's path
  const TokenView& tokens() const { return tokens_; }
  std::int64_t documents() const { return static_cast<std::int64_t>(starts_.size()); }
  std::int64_t document_begin(std::int64_t i) const { return starts_[static_cast<std::size_t>(i)]; }
  std::int64_t document_end(std::int64_t i) const {
    return i + 1 < documents() ? document_begin(i + 1) : tokens_.size();
  }

  // Over tokens that something stands before in their document: only those can be predicted.
  std::int64_t predictable() const { return predictable_; }
  std::int64_t trained() const { return trained_; }
  bool masked() const { return trained_ < predictable_; }
  std::int32_t least() const { return least_; }  // of all tokens
  std::int32_t most() const { return most_; }

  // Of tokens, masks and documents; not of where they lie.
  Digest digest() const;

  // The part [first, last) in 0..1: of the tokens where there is one document, else of documents.
  // Both ends round down, so neighbouring parts meet.
  TokenData part(double first, double last) const;
  void train_on_all();

 private:
  void look_through(bool find_starts);

  std::string name_;
  std::shared_ptr<const MappedFile> file_;
  std::shared_ptr<const std::vector<std::uint32_t>> words_;
  TokenView tokens_;
  std::vector<std::int64_t> starts_;
  std::int64_t predictable_ = 0, trained_ = 0;
  std::int32_t least_ = 0, most_ = -1;
};

// `auto` settled: the windows that this data is cut in.
Windows resolve_windows(const DocumentRules& rules, const TokenData& data);

const char* to_string(Windows windows);
const char* to_string(TrainOn train_on);
const char* to_string(LongDocuments policy);

}  // namespace ballot
