#include "runtime/data/token_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "core/error.h"
#include "core/file.h"

namespace ballot {
namespace {

static_assert(std::endian::native == std::endian::little, "the files are little-endian");

constexpr std::array<char, 8> kMagic = {'B', 'A', 'L', 'L', 'O', 'T', 'T', 'K'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kHeaderBytes = 128;

// At the front of the file; what is left to kHeaderBytes is zero but for the last 16 bytes, the
// digest of those before them.
struct Header {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t header_bytes = kHeaderBytes;
  std::uint64_t tokens = 0;
  std::uint64_t documents = 0;
  std::uint64_t not_trained = 0;  // words with kNotTrained
  std::uint64_t vocabulary = 0;   // every token is below it
  std::uint64_t words_high = 0, words_low = 0;
};
static_assert(sizeof(Header) == 64);

constexpr std::size_t kLlmcHeaderBytes = 256 * sizeof(std::int32_t);
struct LlmcKind {
  std::int32_t magic, version;
  TokenView::Form form;
};
// Those that llm.c's data scripts write: for GPT-2, and for Llama 3.
constexpr LlmcKind kLlmcKinds[] = {{20240520, 1, TokenView::Form::u16},
                                   {20240801, 7, TokenView::Form::i32}};

template <class Value>
Value read_at(std::span<const std::byte> bytes, std::size_t at) {
  Value value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

TokenFile parse_ballot(std::span<const std::byte> bytes, const std::string& path) {
  if (bytes.size() < kHeaderBytes)
    throw CorruptFile("{} has {} bytes, its header has {}", path, bytes.size(), kHeaderBytes);
  const auto header = read_at<Header>(bytes, 0);
  if (header.version != kVersion)
    throw DataError("{} is a token file of version {}, supported is {}", path, header.version,
                    kVersion);
  const Digest digest = digest_of(bytes.first(kHeaderBytes - 16));
  if (header.header_bytes != kHeaderBytes ||
      digest != Digest{read_at<std::uint64_t>(bytes, kHeaderBytes - 16),
                       read_at<std::uint64_t>(bytes, kHeaderBytes - 8)})
    throw CorruptFile("{}: its header does not have the digest that stands in it", path);
  const std::span<const std::byte> data = bytes.subspan(kHeaderBytes);
  if (header.tokens > data.size() / 4 || header.tokens * 4 != data.size())
    throw CorruptFile("{} has {} bytes, its header of {} tokens needs {}", path, bytes.size(),
                      header.tokens, fmt::format("{} and four bytes for each", kHeaderBytes));
  if (digest_of(data) != Digest{header.words_high, header.words_low})
    throw CorruptFile("{}: its tokens do not have the digest of its header", path);
  const TokenView view(TokenView::Form::word, data);
  std::uint64_t documents = 0, not_trained = 0;
  for (std::int64_t i = 0; i < view.size(); ++i) {
    documents += view.begins_document(i);
    not_trained += !view.trained(i);
    if (static_cast<std::uint64_t>(view.token(i)) >= header.vocabulary)
      throw CorruptFile("{}: token {} is {}, its header has a vocabulary of {}", path, i,
                        view.token(i), header.vocabulary);
  }
  if (documents != header.documents || not_trained != header.not_trained)
    throw CorruptFile("{}: {} documents begin and {} tokens are masked, its header says {} and {}",
                      path, documents, not_trained, header.documents, header.not_trained);
  if (view.size() > 0 && !view.begins_document(0))
    throw CorruptFile("{}: no document begins with its first token", path);
  return {view, {}};
}

TokenFile parse_llmc(std::span<const std::byte> bytes, const std::string& path) {
  if (bytes.size() < kLlmcHeaderBytes)
    throw CorruptFile("{} has {} bytes, a token bin's header has {}", path, bytes.size(),
                      kLlmcHeaderBytes);
  const auto magic = read_at<std::int32_t>(bytes, 0), version = read_at<std::int32_t>(bytes, 4);
  for (const LlmcKind& kind : kLlmcKinds) {
    if (kind.magic != magic || kind.version != version) continue;
    // llm.c reads the count as an int.
    const std::int64_t count = read_at<std::int32_t>(bytes, 8);
    const std::span<const std::byte> data = bytes.subspan(kLlmcHeaderBytes);
    const auto width = static_cast<std::int64_t>(TokenView::size_of(kind.form));
    if (count < 0 || count * width != static_cast<std::int64_t>(data.size()))
      throw CorruptFile("{} has {} bytes, its header of {} tokens needs {}", path, bytes.size(),
                        count, static_cast<std::int64_t>(kLlmcHeaderBytes) + width * count);
    return {TokenView(kind.form, data), {}};
  }
  throw CorruptFile(
      "{} starts with {} {}, expected 20240520 1 (llm.c tokens in uint16), 20240801 7 (llm.c "
      "tokens in uint32) or BALLOTTK (Ballot's tokens)",
      path, magic, version);
}

}  // namespace

TokenFile parse_token_file(std::span<const std::byte> bytes, const std::string& path) {
  if (bytes.size() >= kMagic.size() && std::memcmp(bytes.data(), kMagic.data(), 8) == 0)
    return parse_ballot(bytes, path);
  return parse_llmc(bytes, path);
}

TokenFile parse_megatron(std::span<const std::byte> index, std::span<const std::byte> bin,
                         const std::string& index_path, const std::string& bin_path) {
  // Magic, version, code of the type, sequences, documents; then 4 bytes a sequence (its length), 8
  // a sequence (where it begins in the bin, in bytes), 8 a document (its first sequence).
  constexpr std::size_t kIndexHeader = 9 + 8 + 1 + 8 + 8;
  constexpr std::string_view kIndexMagic("MMIDIDX\0\0", 9);
  if (index.size() < kIndexHeader)
    throw CorruptFile("{} has {} bytes, a Megatron index's header has {}", index_path, index.size(),
                      kIndexHeader);
  if (std::memcmp(index.data(), kIndexMagic.data(), kIndexMagic.size()) != 0)
    throw CorruptFile("{} does not start with MMIDIDX, as a Megatron index does", index_path);
  const auto version = read_at<std::uint64_t>(index, 9);
  if (version != 1)
    throw DataError("{} is a Megatron index of version {}, supported is 1", index_path, version);
  const auto code = read_at<std::uint8_t>(index, 17);
  if (code != 4 && code != 8)
    throw DataError("{}: tokens of type {}, supported are 4 (int32) and 8 (uint16)", index_path,
                    code);
  const TokenView::Form form = code == 4 ? TokenView::Form::i32 : TokenView::Form::u16;
  const auto width = static_cast<std::int64_t>(TokenView::size_of(form));
  const auto sequences = read_at<std::uint64_t>(index, 18),
             documents = read_at<std::uint64_t>(index, 26);
  const std::size_t tables = index.size() - kIndexHeader;
  // Of multimodal data one byte a sequence follows.
  const bool fits = sequences <= tables / 12 && documents <= (tables - sequences * 12) / 8;
  const std::size_t rest = fits ? tables - sequences * 12 - documents * 8 : 1;
  if (!fits || (rest != 0 && rest != sequences))
    throw CorruptFile("{} has {} bytes, which {} sequences and {} documents do not fill",
                      index_path, index.size(), sequences, documents);
  if (rest != 0 && sequences != 0)
    throw DataError("{} has modes of its sequences (multimodal data), which are not supported",
                    index_path);

  const std::size_t lengths = kIndexHeader, pointers = lengths + 4 * sequences,
                    firsts = pointers + 8 * sequences;
  std::vector<std::int64_t> begins(static_cast<std::size_t>(sequences) + 1);  // in tokens
  for (std::size_t s = 0; s < sequences; ++s) {
    const auto length = read_at<std::int32_t>(index, lengths + 4 * s);
    const auto pointer = read_at<std::int64_t>(index, pointers + 8 * s);
    if (length < 0 || pointer != begins[s] * width)
      throw CorruptFile(
          "{}: sequence {} of {} tokens begins at byte {}, expected {}, the end of the one before",
          index_path, s, length, pointer, begins[s] * width);
    begins[s + 1] = begins[s] + length;
  }
  if (begins.back() > static_cast<std::int64_t>(bin.size()) / width ||
      begins.back() * width != static_cast<std::int64_t>(bin.size()))
    throw CorruptFile("{} has {} bytes, {} says {} tokens of {} bytes", bin_path, bin.size(),
                      index_path, begins.back(), width);
  TokenFile file{TokenView(form, bin), {}};
  std::uint64_t before = 0;
  for (std::size_t d = 0; d < documents; ++d) {
    const auto first = read_at<std::uint64_t>(index, firsts + 8 * d);
    if (first > sequences || first < before || (d == 0 && first != 0))
      throw CorruptFile("{}: document {} begins with sequence {}, the one before with {}, of {}",
                        index_path, d, first, before, sequences);
    before = first;
    if (first < sequences) file.starts.push_back(begins[first]);  // the last entry is the end
  }
  if (sequences > 0 && file.starts.empty())
    throw CorruptFile("{} has {} sequences and no documents", index_path, sequences);
  return file;
}

TokenFileWriter::TokenFileWriter(const std::string& path, TokenFormat format,
                                 std::int64_t vocabulary)
    : path_(path), format_(format), vocabulary_(vocabulary) {
  require(vocabulary > 0 && vocabulary <= kTokenBits, "a vocabulary of {}", vocabulary);
  const std::string temporary = path_ + ".tmp";
  descriptor_ = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_file_error("create", temporary);
  try {
    put(header());  // its place; the numbers come at the end
  } catch (...) {
    remove_temporary();
    throw;
  }
}

TokenFileWriter::~TokenFileWriter() {
  if (!finished_) remove_temporary();
}

void TokenFileWriter::remove_temporary() {
  if (descriptor_ >= 0) ::close(descriptor_);
  ::unlink((path_ + ".tmp").c_str());
}

void TokenFileWriter::put(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_file_error("write", path_ + ".tmp");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void TokenFileWriter::write(std::span<const std::uint32_t> words) {
  for (const std::uint32_t word : words) {
    require((word & kTokenBits) < static_cast<std::uint64_t>(vocabulary_), "token {} of {}",
            word & kTokenBits, vocabulary_);
    if (tokens_++ == 0) require((word & kBeginsDocument) != 0, "no document begins");
    documents_ += (word & kBeginsDocument) != 0;
    trained_ += (word & (kBeginsDocument | kNotTrained)) == 0;
  }
  if (format_ == TokenFormat::ballot) {
    digest_.add(std::as_bytes(words));
    put(std::as_bytes(words));
    not_trained_ += std::count_if(words.begin(), words.end(),
                                  [](std::uint32_t word) { return (word & kNotTrained) != 0; });
  } else if (vocabulary_ <= 65536) {
    narrow_.assign(words.size(), 0);
    for (std::size_t i = 0; i < words.size(); ++i)
      narrow_[i] = static_cast<std::uint16_t>(words[i] & kTokenBits);
    put(std::as_bytes(std::span(narrow_)));
  } else {
    plain_.assign(words.begin(), words.end());
    for (std::uint32_t& word : plain_) word &= kTokenBits;
    put(std::as_bytes(std::span(plain_)));
  }
}

std::vector<std::byte> TokenFileWriter::header() const {
  if (format_ == TokenFormat::llmc) {
    std::vector<std::byte> bytes(kLlmcHeaderBytes);
    const LlmcKind& kind = kLlmcKinds[vocabulary_ <= 65536 ? 0 : 1];
    const std::int32_t words[3] = {kind.magic, kind.version, static_cast<std::int32_t>(tokens_)};
    std::memcpy(bytes.data(), words, sizeof words);
    return bytes;
  }
  std::vector<std::byte> bytes(kHeaderBytes);
  Header header;
  header.tokens = static_cast<std::uint64_t>(tokens_);
  header.documents = static_cast<std::uint64_t>(documents_);
  header.not_trained = static_cast<std::uint64_t>(not_trained_);
  header.vocabulary = static_cast<std::uint64_t>(vocabulary_);
  const Digest words = digest_.digest();
  header.words_high = words.high;
  header.words_low = words.low;
  std::memcpy(bytes.data(), &header, sizeof header);
  const Digest digest = digest_of(std::span(bytes).first(kHeaderBytes - 16));
  std::memcpy(bytes.data() + kHeaderBytes - 16, &digest.high, 8);
  std::memcpy(bytes.data() + kHeaderBytes - 8, &digest.low, 8);
  return bytes;
}

void TokenFileWriter::finish() {
  if (format_ == TokenFormat::llmc && tokens_ > INT32_MAX)
    throw DataError("{}: {} tokens, llm.c's format holds {}; expected --format ballot", path_,
                    tokens_, INT32_MAX);
  const std::string temporary = path_ + ".tmp";
  if (::lseek(descriptor_, 0, SEEK_SET) != 0) throw_file_error("seek in", temporary);
  put(header());
  if (::fsync(descriptor_) != 0) throw_file_error("fsync", temporary);
  if (::close(descriptor_) != 0) {
    descriptor_ = -1;
    throw_file_error("close", temporary);
  }
  descriptor_ = -1;
  if (std::rename(temporary.c_str(), path_.c_str()) != 0) throw_file_error("rename", temporary);
  finished_ = true;
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  sync_folder(folder.empty() ? "." : folder);
}

}  // namespace ballot
