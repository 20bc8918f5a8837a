// Heads and sections of each kind of frame, written and read.
#include "runtime/elastic/peer_frames.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "runtime/journal/byte_io.h"

namespace ballot {
namespace {

constexpr std::int64_t kChunkUnit = 512;  // elements: chunks begin and end on multiples of it
// Room is taken at least so, then four times what is there, so that little is copied again.
constexpr std::size_t kFirstRoomBytes = std::size_t{4} << 20;
constexpr std::array<std::byte, 8> kZeros{};

constexpr std::uint64_t padded(std::uint64_t bytes) {
  return (bytes + 7) / 8 * 8;
}

// --- writing ---------------------------------------------------------------------------------

struct Kept {
  std::vector<std::byte> head;
  std::shared_ptr<const void> sections;
};

class FrameMaker {
 public:
  template <class T>
  void section(const std::vector<T>& values) {
    const ConstBytes bytes = std::as_bytes(std::span(values));
    if (bytes.empty()) return;
    parts_.push_back(bytes);
    const std::uint64_t padding = padded(bytes.size()) - bytes.size();
    if (padding > 0) parts_.push_back(ConstBytes(kZeros).first(padding));
    section_bytes_ += bytes.size() + padding;
  }

  OutgoingFrame make(PeerFrameKind kind, ByteWriter head, std::shared_ptr<const void> owner) {
    head.pad();
    require(head.size() <= kMostHeadBytes, "a frame's head of {} bytes, expected at most {}",
            head.size(), kMostHeadBytes);
    auto kept = std::make_shared<Kept>();
    ByteWriter prefix(kPrefixBytes + head.size());
    prefix.put(static_cast<std::uint32_t>(kind));
    prefix.put(static_cast<std::uint32_t>(head.size()));
    prefix.put(section_bytes_);
    kept->head = prefix.take();
    const std::vector<std::byte> rest = head.take();
    kept->head.insert(kept->head.end(), rest.begin(), rest.end());
    kept->sections = std::move(owner);
    OutgoingFrame frame;
    frame.parts.push_back(kept->head);
    frame.parts.insert(frame.parts.end(), parts_.begin(), parts_.end());
    frame.owner = std::move(kept);
    return frame;
  }

 private:
  std::vector<ConstBytes> parts_;
  std::uint64_t section_bytes_ = 0;
};

void put(ByteWriter& head, const Position& position) {
  head.put(position.step);
  head.put(position.digest);
}

template <class T>
void put_list(ByteWriter& head, const std::vector<T>& values) {
  head.put(static_cast<std::uint64_t>(values.size()));
  head.put_all(values);
  head.pad();
}

// --- reading ---------------------------------------------------------------------------------

Position get_position(ByteReader& head, const char* what) {
  Position position;
  position.step = head.get<std::int64_t>(what);
  if (position.step < 0) head.fail("{} of step {}, expected 0 or more", what, position.step);
  position.digest = head.get_digest(what);
  return position;
}

template <class T>
std::vector<T> get_list(ByteReader& head, const char* what) {
  const auto count = head.get<std::uint64_t>(what);
  std::vector<T> values = head.get_all<T>(count, what);
  head.skip_padding();
  return values;
}

template <class T>
T get_between(ByteReader& head, const char* what, T least, T most) {
  const T value = head.get<T>(what);
  if (value < least || value > most)
    head.fail("{} = {}, expected {} to {}", what, value, least, most);
  return value;
}

std::int64_t get_count(ByteReader& head, const char* what, std::int64_t least = 0) {
  return get_between<std::int64_t>(head, what, least, INT64_MAX);
}

std::int32_t get_number(ByteReader& head, const char* what) {
  return get_between<std::int32_t>(head, what, 0, kMostPeers - 1);
}

template <class T>
FrameSection into(std::vector<T>& values, std::uint64_t count) {
  return {count * sizeof(T), [&values, count](std::uint64_t more) {
            const std::size_t before = values.size();
            const std::size_t after = before + static_cast<std::size_t>(more / sizeof(T));
            if (after > values.capacity())
              values.reserve(
                  std::min(static_cast<std::size_t>(count),
                           std::max({after, 4 * values.capacity(), kFirstRoomBytes / sizeof(T)})));
            values.resize(after);
            return reinterpret_cast<std::byte*>(values.data() + before);
          }};
}

class ArrivingBallot final : public ArrivingFrame {
 public:
  explicit ArrivingBallot(ByteReader& head) {
    frame_.step = get_count(head, "step", 1);
    frame_.chunk = get_number(head, "chunk");
    frame_.voter = get_number(head, "voter");
    frame_.base = get_position(head, "base");
    frame_.samples.begin = get_count(head, "first sample");
    frame_.samples.end = get_count(head, "sample end", frame_.samples.begin);
    data_->loss_sum = head.get<double>("loss");
    data_->tokens = get_count(head, "tokens");
    const auto bits = head.get<std::uint64_t>("words of bits");
    const auto abstentions = head.get<std::uint64_t>("words of abstentions");
    const auto gradients = get_between<std::uint64_t>(head, "number of gradients", 0, kMostMeans);
    const auto contributes =
        get_between<std::uint64_t>(head, "lists of contributions", 0, kMostMeans);
    add(data_->bits, bits, head);
    add(data_->abstentions, abstentions, head);
    data_->gradients.resize(gradients);
    for (std::vector<float>& gradient : data_->gradients)
      add(gradient, head.get<std::uint64_t>("values of a gradient"), head);
    for (std::uint64_t i = 0; i < contributes; ++i)
      data_->contributes.push_back(get_list<std::uint8_t>(head, "contributions"));
  }
  PeerFrame finish() override {
    frame_.data = std::move(data_);
    return std::move(frame_);
  }

 private:
  template <class T>
  void add(std::vector<T>& values, std::uint64_t count, const ByteReader& head) {
    if (count > UINT64_MAX / 64) head.fail("a section of {} numbers", count);
    sections_.push_back(into(values, count));
  }
  BallotFrame frame_;
  std::shared_ptr<BallotData> data_ = std::make_shared<BallotData>();
};

class ArrivingVerdict final : public ArrivingFrame {
 public:
  explicit ArrivingVerdict(ByteReader& head) {
    frame_.step = get_count(head, "step", 1);
    frame_.chunk = get_number(head, "chunk");
    head.skip_padding();
    frame_.base = get_position(head, "base");
    get_chunk(head);
    const auto factors = head.get<std::uint64_t>("number of factors");
    head.expect(factors, 16, "factors");
    frame_.data.factors.resize(static_cast<std::size_t>(factors));
    for (TensorFactors& one : frame_.data.factors) {
      one.decay = head.get<float>("decay");
      one.step = head.get<float>("step factor");
      one.first = head.get<float>("first factor");
      one.second = head.get<float>("second factor");
    }
    frame_.data.means.resize(get_between<std::uint64_t>(head, "number of means", 0, kMostMeans));
    for (MeanRecord& mean : frame_.data.means) get_mean(head, mean);
    get_figures(head);
  }
  PeerFrame finish() override {
    const ChunkVerdictRecord& verdict = frame_.data.verdict;
    expect(verdict.digest, verdict.body_digest(), "a verdict");
    for (const MeanRecord& mean : frame_.data.means)
      expect(mean.digest, mean.body_digest(), "a mean");
    return std::move(frame_);
  }

 private:
  void get_chunk(ByteReader& head) {
    ChunkVerdictRecord& chunk = frame_.data.verdict;
    chunk.begin = get_count(head, "chunk begin");
    chunk.end = get_count(head, "chunk end", chunk.begin);
    if (chunk.begin % kChunkUnit != 0 || chunk.end % kChunkUnit != 0)
      head.fail("a chunk of elements [{}, {}), expected multiples of {}", chunk.begin, chunk.end,
                kChunkUnit);
    chunk.digest = head.get_digest("chunk digest");
    chunk.counted = get_list<std::uint64_t>(head, "counted voters");
    const auto words = static_cast<std::uint64_t>(chunk.end - chunk.begin) / 64;
    const auto blocks = head.get<std::uint64_t>("words of held blocks");
    const auto elements = head.get<std::uint64_t>("words of held elements");
    if (blocks > words || (elements != 0 && elements != words))
      head.fail("{} words of held blocks, {} of held elements in a chunk of {} words", blocks,
                elements, words);
    sections_.push_back(into(chunk.bits, words));
    sections_.push_back(into(chunk.held_blocks, blocks));
    sections_.push_back(into(chunk.held_elements, elements));
  }
  void get_mean(ByteReader& head, MeanRecord& mean) {
    const auto wire = get_between<std::uint32_t>(head, "wire type", 0, 1);
    mean.wire = wire == 0 ? DType::f32 : DType::bf16;
    head.skip_padding();
    mean.digest = head.get_digest("mean digest");
    mean.contributors = get_list<std::int32_t>(head, "contributors");
    for (const std::int32_t count : mean.contributors)
      if (count < 0) head.fail("{} contributors", count);
    const auto values = head.get<std::uint64_t>("values of a mean");
    if (values > UINT64_MAX / 64) head.fail("a mean of {} values", values);
    sections_.push_back(into(mean.values, values));
  }
  void get_figures(ByteReader& head) {
    const ChunkVerdictRecord& chunk = frame_.data.verdict;
    ChunkFigures& figures = frame_.data.figures;
    VoteStatistics& votes = figures.votes;
    const std::int64_t elements = chunk.end - chunk.begin;
    votes.elements = get_between<std::int64_t>(head, "elements", 0, elements);
    votes.ties = get_between<std::int64_t>(head, "ties", 0, votes.elements);
    votes.unanimous = get_between<std::int64_t>(head, "unanimous elements", 0, votes.elements);
    votes.blocks = get_between<std::int64_t>(head, "blocks", 0, elements);
    votes.held_blocks = get_between<std::int64_t>(head, "held blocks", 0, votes.blocks);
    votes.agreed = get_list<std::int64_t>(head, "agreed");
    votes.compared = get_list<std::int64_t>(head, "compared");
    std::size_t voters = 0;
    for (const std::uint64_t word : chunk.counted)
      voters += static_cast<std::size_t>(std::popcount(word));
    if (votes.agreed.size() != voters || votes.compared.size() != voters)
      head.fail("agreement of {} and {} voters, {} were counted", votes.agreed.size(),
                votes.compared.size(), voters);
    for (std::size_t v = 0; v < voters; ++v)
      if (votes.compared[v] < 0 || votes.compared[v] > elements || votes.agreed[v] < 0 ||
          votes.agreed[v] > votes.compared[v])
        head.fail("a voter that agreed on {} of {} compared elements, the chunk has {}",
                  votes.agreed[v], votes.compared[v], elements);
    get_tensors(head, voters);
    figures.loss_sum = head.get<double>("loss");
    if (!std::isfinite(figures.loss_sum))
      head.fail("a loss of {}, expected a number", figures.loss_sum);
    figures.tokens = get_count(head, "tokens");
    figures.loss_faults = get_between<std::int32_t>(head, "losses that are no number", 0,
                                                    static_cast<std::int32_t>(voters));
  }
  // A tensor begins at a multiple of kChunkUnit elements, so a chunk bounds their number and place.
  void get_tensors(ByteReader& head, std::size_t voters) {
    const ChunkVerdictRecord& chunk = frame_.data.verdict;
    ChunkFigures& figures = frame_.data.figures;
    const std::int64_t units = (chunk.end - chunk.begin) / kChunkUnit;
    figures.first_tensor =
        get_between<std::int64_t>(head, "first tensor", 0, chunk.begin / kChunkUnit);
    figures.tensor_agreed = get_list<std::int64_t>(head, "agreed by tensor");
    figures.tensor_compared = get_list<std::int64_t>(head, "compared by tensor");
    const std::size_t count = figures.tensor_agreed.size();
    if (figures.tensor_compared.size() != count || (voters == 0 ? count : count % voters) != 0 ||
        count > static_cast<std::size_t>(units) * voters)
      head.fail(
          "agreement by tensor of {} and {} numbers, expected as many for {} voters, in {} "
          "tensors at most",
          count, figures.tensor_compared.size(), voters, units);
    std::vector<std::int64_t> agreed(voters), compared(voters);
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t a = figures.tensor_agreed[i], c = figures.tensor_compared[i];
      const std::int64_t left = chunk.end - chunk.begin - compared[i % voters];
      if (c < 0 || c > left || a < 0 || a > c)
        head.fail(
            "a voter that agreed on {} of {} compared elements of a tensor, {} are left of "
            "the chunk",
            a, c, left);
      agreed[i % voters] += a;
      compared[i % voters] += c;
    }
    if (agreed != figures.votes.agreed || compared != figures.votes.compared)
      head.fail("agreement by tensor that does not add up to the chunk's");
  }
  static void expect(const Digest& said, const Digest& found, const char* what) {
    if (said != found)
      throw CorruptFile("{} with digest {}, its head says {}", what, to_string(found),
                        to_string(said));
  }
  VerdictFrame frame_;
};

class ArrivingReply final : public ArrivingFrame {
 public:
  explicit ArrivingReply(ByteReader& head) {
    FetchReply& reply = frame_.reply;
    reply.from = get_position(head, "from");
    reply.term = get_count(head, "term");
    reply.start = get_position(head, "start");
    reply.vouched = get_position(head, "vouched");
    frame_.records = head.get<std::uint32_t>("number of records");
    const auto landmarks = head.get<std::uint32_t>("number of landmarks");
    head.expect(landmarks, 24, "landmarks");
    for (std::uint32_t i = 0; i < landmarks; ++i)
      reply.landmarks.push_back(get_position(head, "landmark"));
  }
  PeerFrame finish() override { return std::move(frame_); }

 private:
  ReplyFrame frame_;
};

class ArrivingRecord final : public ArrivingFrame {
 public:
  explicit ArrivingRecord(ByteReader& head) {
    sections_.push_back(into(bytes_, head.get<std::uint64_t>("bytes of a record")));
  }
  PeerFrame finish() override {
    auto record = std::make_shared<Record>(decode_record(bytes_, "a fetched record"));
    if (!record->whole())
      throw CorruptFile("a fetched record of step {} without all its bits", record->step);
    return RecordFrame{std::move(record), bytes_.size()};
  }

 private:
  std::vector<std::byte> bytes_;
};

class ArrivingManifest final : public ArrivingFrame {
 public:
  explicit ArrivingManifest(ByteReader& head) {
    const std::vector<char> name = get_list<char>(head, "name");
    frame_.name.assign(name.begin(), name.end());
    const bool plain =
        !name.empty() && name.size() <= kMostNameBytes && name.front() != '.' &&
        std::ranges::all_of(name, [](char c) { return c > ' ' && c <= '~' && c != '/'; });
    if (!plain)
      head.fail("a name of {} bytes, expected that of a folder, 1 to {} printable characters",
                name.size(), kMostNameBytes);
    sections_.push_back(into(text_, head.get<std::uint64_t>("bytes of a manifest")));
  }
  PeerFrame finish() override {
    frame_.text.assign(text_.begin(), text_.end());
    return std::move(frame_);
  }

 private:
  ManifestFrame frame_;
  std::vector<char> text_;
};

class ArrivingFilePart final : public ArrivingFrame {
 public:
  explicit ArrivingFilePart(ByteReader& head) {
    frame_.file = head.get<std::uint32_t>("file");
    head.skip_padding();
    frame_.offset = head.get<std::uint64_t>("offset");
    const auto bytes = get_between<std::uint64_t>(head, "bytes of a part", 1, kMostFilePartBytes);
    sections_.push_back(into(frame_.bytes, bytes));
  }
  PeerFrame finish() override { return std::move(frame_); }

 private:
  FilePartFrame frame_;
};

std::unique_ptr<ArrivingFrame> read_kind(PeerFrameKind kind, ByteReader& head) {
  switch (kind) {
    case PeerFrameKind::ballot:
      return std::make_unique<ArrivingBallot>(head);
    case PeerFrameKind::verdict:
      return std::make_unique<ArrivingVerdict>(head);
    case PeerFrameKind::reply:
      return std::make_unique<ArrivingReply>(head);
    case PeerFrameKind::record:
      return std::make_unique<ArrivingRecord>(head);
    case PeerFrameKind::manifest:
      return std::make_unique<ArrivingManifest>(head);
    case PeerFrameKind::file_part:
      return std::make_unique<ArrivingFilePart>(head);
  }
  head.fail("a frame of kind {}", static_cast<std::uint32_t>(kind));
}

}  // namespace

OutgoingFrame make_frame(const BallotFrame& frame, std::shared_ptr<const BallotData> data) {
  require(data != nullptr, "a ballot of step {} without data", frame.step);
  require(data->gradients.size() <= kMostMeans && data->contributes.size() <= kMostMeans,
          "a ballot with {} gradients", data->gradients.size());
  ByteWriter head;
  head.put(frame.step);
  head.put(frame.chunk);
  head.put(frame.voter);
  put(head, frame.base);
  head.put(frame.samples.begin);
  head.put(frame.samples.end);
  head.put(data->loss_sum);
  head.put(data->tokens);
  head.put(static_cast<std::uint64_t>(data->bits.size()));
  head.put(static_cast<std::uint64_t>(data->abstentions.size()));
  head.put(static_cast<std::uint64_t>(data->gradients.size()));
  head.put(static_cast<std::uint64_t>(data->contributes.size()));
  FrameMaker maker;
  maker.section(data->bits);
  maker.section(data->abstentions);
  for (const std::vector<float>& gradient : data->gradients) {
    head.put(static_cast<std::uint64_t>(gradient.size()));
    maker.section(gradient);
  }
  for (const std::vector<std::uint8_t>& tensors : data->contributes) put_list(head, tensors);
  return maker.make(PeerFrameKind::ballot, std::move(head), std::move(data));
}

OutgoingFrame make_frame(std::shared_ptr<const VerdictFrame> frame) {
  const ChunkVerdictRecord& chunk = frame->data.verdict;
  const auto words = static_cast<std::size_t>((chunk.end - chunk.begin) / 64);
  require(chunk.present && chunk.bits.size() == words && frame->data.means.size() <= kMostMeans,
          "a verdict of step {} with {} of {} words and {} means", frame->step, chunk.bits.size(),
          words, frame->data.means.size());
  ByteWriter head;
  head.put(frame->step);
  head.put(frame->chunk);
  head.pad();
  put(head, frame->base);
  head.put(chunk.begin);
  head.put(chunk.end);
  head.put(chunk.digest);
  put_list(head, chunk.counted);
  head.put(static_cast<std::uint64_t>(chunk.held_blocks.size()));
  head.put(static_cast<std::uint64_t>(chunk.held_elements.size()));
  FrameMaker maker;
  maker.section(chunk.bits);
  maker.section(chunk.held_blocks);
  maker.section(chunk.held_elements);
  head.put(static_cast<std::uint64_t>(frame->data.factors.size()));
  for (const TensorFactors& factors : frame->data.factors) {
    head.put(factors.decay);
    head.put(factors.step);
    head.put(factors.first);
    head.put(factors.second);
  }
  head.put(static_cast<std::uint64_t>(frame->data.means.size()));
  for (const MeanRecord& mean : frame->data.means) {
    require(mean.present, "a verdict of step {} with an absent mean", frame->step);
    head.put(std::uint32_t{mean.wire == DType::f32 ? 0u : 1u});
    head.pad();
    head.put(mean.digest);
    put_list(head, mean.contributors);
    head.put(static_cast<std::uint64_t>(mean.values.size()));
    maker.section(mean.values);
  }
  const ChunkFigures& figures = frame->data.figures;
  head.put(figures.votes.elements);
  head.put(figures.votes.ties);
  head.put(figures.votes.unanimous);
  head.put(figures.votes.blocks);
  head.put(figures.votes.held_blocks);
  put_list(head, figures.votes.agreed);
  put_list(head, figures.votes.compared);
  head.put(figures.first_tensor);
  put_list(head, figures.tensor_agreed);
  put_list(head, figures.tensor_compared);
  head.put(figures.loss_sum);
  head.put(figures.tokens);
  head.put(figures.loss_faults);
  return maker.make(PeerFrameKind::verdict, std::move(head), std::move(frame));
}

OutgoingFrame make_frame(const ReplyFrame& frame) {
  ByteWriter head;
  put(head, frame.reply.from);
  head.put(frame.reply.term);
  put(head, frame.reply.start);
  put(head, frame.reply.vouched);
  head.put(frame.records);
  head.put(static_cast<std::uint32_t>(frame.reply.landmarks.size()));
  for (const Position& landmark : frame.reply.landmarks) put(head, landmark);
  return FrameMaker().make(PeerFrameKind::reply, std::move(head), nullptr);
}

OutgoingFrame make_frame(const Record& record) {
  auto bytes = std::make_shared<const std::vector<std::byte>>(encode(record));
  ByteWriter head;
  head.put(static_cast<std::uint64_t>(bytes->size()));
  FrameMaker maker;
  maker.section(*bytes);
  return maker.make(PeerFrameKind::record, std::move(head), std::move(bytes));
}

OutgoingFrame make_frame(const ManifestFrame& frame) {
  auto text = std::make_shared<const std::vector<char>>(frame.text.begin(), frame.text.end());
  ByteWriter head;
  put_list(head, std::vector<char>(frame.name.begin(), frame.name.end()));
  head.put(static_cast<std::uint64_t>(text->size()));
  FrameMaker maker;
  maker.section(*text);
  return maker.make(PeerFrameKind::manifest, std::move(head), std::move(text));
}

OutgoingFrame make_frame(FilePartFrame frame) {
  auto bytes = std::make_shared<const std::vector<std::byte>>(std::move(frame.bytes));
  ByteWriter head;
  head.put(frame.file);
  head.pad();
  head.put(frame.offset);
  head.put(static_cast<std::uint64_t>(bytes->size()));
  FrameMaker maker;
  maker.section(*bytes);
  return maker.make(PeerFrameKind::file_part, std::move(head), std::move(bytes));
}

FramePrefix read_prefix(ConstBytes bytes, std::uint32_t kinds, std::uint64_t most_section_bytes) {
  ByteReader in(bytes, "a frame's prefix", 0);
  const auto kind = in.get<std::uint32_t>("kind");
  if ((kind & kinds) == 0 || (kind & (kind - 1)) != 0)
    in.fail("kind {}, expected one of {}", kind, kinds);
  FramePrefix prefix;
  prefix.kind = static_cast<PeerFrameKind>(kind);
  prefix.head_bytes = get_between<std::uint32_t>(in, "bytes of the head", 8, kMostHeadBytes);
  prefix.section_bytes =
      get_between<std::uint64_t>(in, "bytes of the sections", 0, most_section_bytes);
  if (prefix.head_bytes % 8 != 0 || prefix.section_bytes % 8 != 0)
    in.fail("{} bytes of head and {} of sections, expected multiples of 8", prefix.head_bytes,
            prefix.section_bytes);
  return prefix;
}

std::unique_ptr<ArrivingFrame> read_head(const FramePrefix& prefix, ConstBytes head) {
  ByteReader in(head, "a frame's head", kPrefixBytes);
  std::unique_ptr<ArrivingFrame> frame = read_kind(prefix.kind, in);
  in.skip_padding();
  if (in.left() != 0) in.fail("{} bytes after the head", in.left());
  std::uint64_t left = prefix.section_bytes;
  for (const FrameSection& section : frame->sections()) {
    if (section.bytes > left || padded(section.bytes) > left)
      in.fail("a section of {} bytes, {} are left of {}", section.bytes, left,
              prefix.section_bytes);
    left -= padded(section.bytes);
  }
  if (left != 0)
    in.fail("sections of {} bytes, the prefix says {}", prefix.section_bytes - left,
            prefix.section_bytes);
  std::erase_if(frame->sections(), [](const FrameSection& section) { return section.bytes == 0; });
  return frame;
}

}  // namespace ballot
