#include "models/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>

#include "core/error.h"
#include "core/file.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
// Ours: real files have a few thousand; these bound what a header can make us allocate.
constexpr std::size_t kMaxTensors = 100'000;
constexpr std::size_t kMaxMetadata = 100'000;
constexpr std::size_t kMaxRank = 32;

struct TypeName {
  StoredType type;
  const char* name;
  std::size_t size_bytes;
};
constexpr std::array kTypes = {
    TypeName{StoredType::f64, "F64", 8}, TypeName{StoredType::f32, "F32", 4},
    TypeName{StoredType::f16, "F16", 2}, TypeName{StoredType::bf16, "BF16", 2},
    TypeName{StoredType::i64, "I64", 8}, TypeName{StoredType::i32, "I32", 4},
    TypeName{StoredType::i16, "I16", 2}, TypeName{StoredType::i8, "I8", 1},
    TypeName{StoredType::u8, "U8", 1},   TypeName{StoredType::boolean, "BOOL", 1},
};

const TypeName& entry(StoredType type) {
  for (const TypeName& candidate : kTypes)
    if (candidate.type == type) return candidate;
  throw_logic_error(std::source_location::current(), "unknown StoredType");
}

// What the header says of one tensor, before it is believed.
struct TensorInfo {
  std::string name;
  StoredType type{};
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;
};

// nlohmann's SAX events -> tensor infos and metadata. Only the format's own nesting is accepted, so
// depth is bounded by the states; no document is built, so memory stays in proportion to the
// tensors.
class HeaderEvents {
 public:
  explicit HeaderEvents(const std::string& path) : path_(path) {}

  std::vector<TensorInfo> tensors;
  std::map<std::string, std::string> metadata;

  bool null() { return wrong("null"); }
  bool boolean(bool) { return wrong("a boolean"); }
  bool number_integer(std::int64_t value) { return wrong(fmt::format("{}", value)); }
  bool number_float(double, const std::string& text) { return wrong(shown(text)); }
  bool binary(nlohmann::json::binary_t&) { return wrong("binary"); }

  bool number_unsigned(std::uint64_t value) {
    if (state_ == State::shape) {
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        throw CorruptFile("{}: tensor {} has an extent of {}, expected less than 2^63", path_,
                          shown(info().name), value);
      if (info().shape.size() == kMaxRank)
        throw CorruptFile("{}: tensor {} has more than {} dimensions", path_, shown(info().name),
                          kMaxRank);
      info().shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (state_ == State::offsets) {
      if (offsets_ == 2)
        throw CorruptFile("{}: tensor {} has more than two data_offsets", path_,
                          shown(info().name));
      (offsets_++ == 0 ? info().begin : info().end) = value;
      return true;
    }
    return wrong(fmt::format("{}", value));
  }

  bool string(std::string& value) {
    if (state_ == State::metadata_value) {
      metadata.emplace(key_, value);
      state_ = State::metadata;
      return true;
    }
    if (state_ == State::type_value) {
      const auto found = std::find_if(kTypes.begin(), kTypes.end(),
                                      [&](const TypeName& type) { return value == type.name; });
      if (found == kTypes.end())
        throw CorruptFile(
            "{}: tensor {} has dtype {}, expected one of F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL",
            path_, shown(info().name), shown(value));
      info().type = found->type;
      state_ = State::info;
      return true;
    }
    return wrong(shown(value));
  }

  bool start_object(std::size_t) {
    switch (state_) {
      case State::start:
        state_ = State::top;
        return true;
      case State::metadata_start:
        state_ = State::metadata;
        return true;
      case State::info_start:
        state_ = State::info;
        return true;
      default:
        return wrong("an object");
    }
  }

  bool key(std::string& value) {
    if (state_ == State::top) {
      if (!names_.insert(value).second)
        throw CorruptFile("{}: key {} stands twice in the header", path_, shown(value));
      key_ = value;
      if (value == "__metadata__") {
        state_ = State::metadata_start;
        return true;
      }
      if (tensors.size() == kMaxTensors)
        throw CorruptFile("{}: more than {} tensors", path_, kMaxTensors);
      tensors.emplace_back().name = value;
      has_type_ = has_shape_ = has_offsets_ = false;
      state_ = State::info_start;
      return true;
    }
    if (state_ == State::metadata) {
      if (metadata.size() == kMaxMetadata)
        throw CorruptFile("{}: more than {} metadata", path_, kMaxMetadata);
      if (metadata.contains(value))
        throw CorruptFile("{}: key {} stands twice in __metadata__", path_, shown(value));
      key_ = value;
      state_ = State::metadata_value;
      return true;
    }
    // State::info: no other state can see a key.
    const auto once = [&](bool& has, State next) {
      if (has) throw CorruptFile("{}: tensor {} has {} twice", path_, shown(info().name), value);
      has = true;
      state_ = next;
      return true;
    };
    if (value == "dtype") return once(has_type_, State::type_value);
    if (value == "shape") return once(has_shape_, State::shape_start);
    if (value == "data_offsets") return once(has_offsets_, State::offsets_start);
    throw CorruptFile("{}: tensor {} has a key {}, expected dtype, shape, data_offsets", path_,
                      shown(info().name), shown(value));
  }

  bool end_object() {
    if (state_ == State::info) {
      if (!has_type_ || !has_shape_ || !has_offsets_)
        throw CorruptFile("{}: tensor {} lacks {}", path_, shown(info().name),
                          !has_type_    ? "dtype"
                          : !has_shape_ ? "shape"
                                        : "data_offsets");
      state_ = State::top;
    } else if (state_ == State::metadata) {
      state_ = State::top;
    } else {
      state_ = State::done;
    }
    return true;
  }

  bool start_array(std::size_t) {
    if (state_ == State::shape_start) {
      state_ = State::shape;
    } else if (state_ == State::offsets_start) {
      state_ = State::offsets;
      offsets_ = 0;
    } else {
      return wrong("an array");
    }
    return true;
  }

  bool end_array() {
    if (state_ == State::offsets && offsets_ != 2)
      throw CorruptFile("{}: tensor {} has {} data_offsets, expected 2", path_, shown(info().name),
                        offsets_);
    state_ = State::info;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& error) {
    throw CorruptFile("{}: header byte {} is not JSON: {}", path_, position, error.what());
  }

 private:
  enum class State {
    start,
    top,
    metadata_start,
    metadata,
    metadata_value,
    info_start,
    info,
    type_value,
    shape_start,
    shape,
    offsets_start,
    offsets,
    done
  };

  TensorInfo& info() { return tensors.back(); }

  bool wrong(const std::string& got) const {
    switch (state_) {
      case State::metadata_start:
        throw CorruptFile("{}: __metadata__ is {}, expected an object", path_, got);
      case State::metadata_value:
        throw CorruptFile("{}: __metadata__ {} is {}, expected a string", path_, shown(key_), got);
      case State::info_start:
        throw CorruptFile("{}: tensor {} is {}, expected an object", path_, shown(key_), got);
      case State::type_value:
        throw CorruptFile("{}: tensor {}: dtype is {}, expected a string", path_,
                          shown(tensors.back().name), got);
      case State::shape_start:
      case State::shape:
        throw CorruptFile("{}: tensor {}: shape has {}, expected an array of whole numbers", path_,
                          shown(tensors.back().name), got);
      case State::offsets_start:
      case State::offsets:
        throw CorruptFile("{}: tensor {}: data_offsets has {}, expected two whole numbers", path_,
                          shown(tensors.back().name), got);
      default:
        throw CorruptFile("{}: header holds {}, expected a JSON object", path_, got);
    }
  }

  const std::string& path_;
  State state_ = State::start;
  std::string key_;
  std::set<std::string> names_;
  bool has_type_ = false, has_shape_ = false, has_offsets_ = false;
  int offsets_ = 0;
};

// Shape product times element size; nothing where 64 bits do not hold it.
std::optional<std::uint64_t> checked_bytes(const std::vector<std::int64_t>& shape,
                                           StoredType type) {
  std::uint64_t product = 1;
  for (const std::int64_t extent : shape)
    if (__builtin_mul_overflow(product, static_cast<std::uint64_t>(extent), &product))
      return std::nullopt;
  if (__builtin_mul_overflow(product, std::uint64_t{size_bytes(type)}, &product))
    return std::nullopt;
  return product;
}

// The header's text, once length and encoding hold.
std::string_view find_header(std::span<const std::byte> bytes, const std::string& path) {
  if (bytes.size() < 8)
    throw CorruptFile("{} has {} bytes, a safetensors file has at least 8", path, bytes.size());
  std::uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  if (length > kMaxHeaderBytes)
    throw CorruptFile("{}: header length is {}, expected at most {}", path, length,
                      kMaxHeaderBytes);
  if (length > bytes.size() - 8)
    throw CorruptFile("{} has {} bytes, its header needs {}", path, bytes.size(), 8 + length);
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  if (!is_utf8(header)) throw CorruptFile("{}: header is not UTF-8", path);
  if (header.empty() || header.front() != '{')
    throw CorruptFile("{}: header starts with {}, expected \"{{\"", path,
                      shown(header.substr(0, 1)));
  // nlohmann's lexer takes a zero byte for the end of the text.
  if (const std::size_t zero = header.find('\0'); zero != std::string_view::npos)
    throw CorruptFile("{}: header byte {} is zero, expected JSON padded with spaces", path, zero);
  return header;
}

}  // namespace

std::size_t size_bytes(StoredType type) {
  return entry(type).size_bytes;
}
const char* to_string(StoredType type) {
  return entry(type).name;
}

std::int64_t StoredTensor::count() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;  // cannot overflow: the reader checked
  return product;
}

struct SafetensorsReader::Contents {
  std::string path;
  std::optional<MappedFile> file;
  std::vector<StoredTensor> tensors;
  std::unordered_map<std::string, std::size_t> index;
  std::map<std::string, std::string> metadata;

  void read(std::span<const std::byte> bytes);
};

void SafetensorsReader::Contents::read(std::span<const std::byte> bytes) {
  const std::string_view header = find_header(bytes, path);
  HeaderEvents events(path);
  nlohmann::json::sax_parse(header.begin(), header.end(), &events);
  metadata = std::move(events.metadata);

  std::vector<TensorInfo>& infos = events.tensors;
  std::sort(infos.begin(), infos.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  const std::span<const std::byte> data = bytes.subspan(8 + header.size());
  std::uint64_t expected_begin = 0;
  for (TensorInfo& info : infos) {
    if (info.begin != expected_begin || info.end < info.begin)
      throw CorruptFile(
          "{}: tensor {} has data_offsets [{}, {}], expected them to start at {}: no holes, no "
          "overlap",
          path, shown(info.name), info.begin, info.end, expected_begin);
    const std::optional<std::uint64_t> size = checked_bytes(info.shape, info.type);
    if (!size)
      throw CorruptFile("{}: the shape [{}] of tensor {} overflows 64 bits", path,
                        fmt::join(info.shape, ", "), shown(info.name));
    if (*size != info.end - info.begin)
      throw CorruptFile("{}: tensor {} has {} bytes, its shape [{}] of {} needs {}", path,
                        shown(info.name), info.end - info.begin, fmt::join(info.shape, ", "),
                        to_string(info.type), *size);
    if (info.end > data.size())
      throw CorruptFile("{} has {} bytes, tensor {} needs {}", path, bytes.size(), shown(info.name),
                        8 + header.size() + info.end);
    expected_begin = info.end;
    index.emplace(info.name, tensors.size());
    tensors.push_back({std::move(info.name), info.type, std::move(info.shape),
                       data.subspan(info.begin, info.end - info.begin),
                       8 + header.size() + info.begin});
  }
  if (expected_begin != data.size())
    throw CorruptFile("{} has {} bytes, its tensors end at {}", path, bytes.size(),
                      8 + header.size() + expected_begin);
}

SafetensorsReader::SafetensorsReader(const std::string& path)
    : contents_(std::make_unique<Contents>()) {
  contents_->path = path;
  contents_->file.emplace(path);
  contents_->read(contents_->file->bytes());
}

SafetensorsReader::SafetensorsReader(std::span<const std::byte> bytes, const std::string& name)
    : contents_(std::make_unique<Contents>()) {
  contents_->path = name;
  contents_->read(bytes);
}

SafetensorsReader::SafetensorsReader(SafetensorsReader&&) noexcept = default;
SafetensorsReader::~SafetensorsReader() = default;

const std::vector<StoredTensor>& SafetensorsReader::tensors() const {
  return contents_->tensors;
}
const std::map<std::string, std::string>& SafetensorsReader::metadata() const {
  return contents_->metadata;
}
const std::string& SafetensorsReader::path() const {
  return contents_->path;
}

const StoredTensor* SafetensorsReader::find(const std::string& name) const {
  const auto found = contents_->index.find(name);
  return found == contents_->index.end() ? nullptr : &contents_->tensors[found->second];
}

const StoredTensor& SafetensorsReader::get(const std::string& name) const {
  const StoredTensor* found = find(name);
  if (found == nullptr) throw DataError("{} has no tensor {}", contents_->path, name);
  return *found;
}

namespace {

std::uint64_t stored_bytes(const TensorLayout& tensor) {
  const std::optional<std::uint64_t> size = checked_bytes(tensor.shape, tensor.type);
  require(size.has_value(), "the shape of tensor {} overflows", tensor.name);
  return *size;
}

}  // namespace

std::string safetensors_header(std::span<const TensorLayout> tensors,
                               const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::set<std::string> names;  // ordered_json finds keys one by one
  std::uint64_t offset = 0;
  for (const TensorLayout& tensor : tensors) {
    require(tensor.name != "__metadata__" && names.insert(tensor.name).second,
            "tensor name {} used twice", tensor.name);
    for (const std::int64_t extent : tensor.shape)
      require(extent >= 0, "tensor {} has an extent of {}", tensor.name, extent);
    const std::uint64_t size = stored_bytes(tensor);
    header.get_ref<nlohmann::ordered_json::object_t&>().emplace_back(
        tensor.name, nlohmann::ordered_json{{"dtype", to_string(tensor.type)},
                                            {"shape", tensor.shape},
                                            {"data_offsets", {offset, offset + size}}});
    offset += size;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  require(text.size() <= kMaxHeaderBytes, "a header of {} bytes", text.size());
  const std::uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + text;
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::span<const TensorLayout> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  const std::string header = safetensors_header(tensors, metadata);
  file_.write(header);
  end_ = header.size();
  for (const TensorLayout& tensor : tensors) end_ += stored_bytes(tensor);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  file_.write(bytes);
}

void SafetensorsWriter::finish() {
  require(file_.written_bytes() == end_, "{} has {} bytes, its header needs {}", file_.path(),
          file_.written_bytes(), end_);
  file_.finish();
}

void write_safetensors(const std::string& path, std::span<const TensorToStore> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorLayout> layout;
  for (const TensorToStore& tensor : tensors) {
    require(checked_bytes(tensor.shape, tensor.type) == tensor.bytes.size(),
            "tensor {} has {} bytes, not what its shape needs", tensor.name, tensor.bytes.size());
    layout.push_back({tensor.name, tensor.type, tensor.shape});
  }
  SafetensorsWriter writer(path, layout, metadata);
  for (const TensorToStore& tensor : tensors) writer.write(tensor.bytes);
  writer.finish();
}

}  // namespace ballot
