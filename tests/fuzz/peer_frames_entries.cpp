// What a worker reads of its peers: messages of a stream become frames within their limits, and
// what is accepted says the same when written again.
#include <algorithm>
#include <cstring>
#include <memory>

#include "core/error.h"
#include "runtime/elastic/peer_frames_pieces.h"
#include "runtime/elastic/peer_frames_requests.h"
#include "tests/fuzz/entries.h"
#include "tests/runtime/peers_frames_support.h"
#include "tests/runtime/peers_values.h"

namespace ballot::fuzz {
namespace {

constexpr std::uint64_t kMostSectionBytes = std::uint64_t{1} << 30;

OutgoingFrame write_again(const PeerFrame& frame) {
  if (const auto* ballot = std::get_if<BallotFrame>(&frame))
    return make_frame(*ballot, ballot->data);
  if (const auto* verdict = std::get_if<VerdictFrame>(&frame))
    return make_frame(std::make_shared<const VerdictFrame>(*verdict));
  if (const auto* reply = std::get_if<ReplyFrame>(&frame)) return make_frame(*reply);
  if (const auto* record = std::get_if<RecordFrame>(&frame)) return make_frame(*record->record);
  if (const auto* manifest = std::get_if<ManifestFrame>(&frame)) return make_frame(*manifest);
  return make_frame(std::get<FilePartFrame>(frame));
}

// Messages of a stream, each after its length. Their headers are made right, so that mutations come
// past the checksums, unless the first byte says otherwise.
bool run_frames(std::span<const std::byte> bytes, std::uint32_t kinds) {
  if (bytes.empty()) return false;
  const bool as_is = bytes.front() == std::byte{'!'};
  bytes = bytes.subspan(1);
  FrameAssembler assembler(kinds, kMostSectionBytes);
  std::uint64_t frames = 0;
  std::string body;  // of the frame under way
  try {
    while (bytes.size() >= 4) {
      std::uint32_t length = 0;
      std::memcpy(&length, bytes.data(), 4);
      bytes = bytes.subspan(4);
      length = static_cast<std::uint32_t>(std::min<std::size_t>(length, bytes.size()));
      std::string message(reinterpret_cast<const char*>(bytes.data()), length);
      bytes = bytes.subspan(length);
      if (!as_is) message = test::make_piece(std::move(message), frames, body.size());
      const ConstBytes parts[] = {std::as_bytes(std::span(message))};
      const std::optional<PeerFrame> frame = assembler.add(parts);
      body += message.substr(kPieceHeaderBytes);
      if (!frame) continue;
      std::string again;
      const OutgoingFrame out = write_again(*frame);
      for (const ConstBytes part : out.parts)
        again.append(reinterpret_cast<const char*>(part.data()), part.size());
      require(again == body, "frame {} of {} bytes changes when rewritten", frames, body.size());
      ++frames;
      body.clear();
    }
    return assembler.between_frames() && frames > 0;
  } catch (const WorldError&) {
    return false;
  }
}
bool run_link(std::span<const std::byte> bytes) {
  return run_frames(bytes, kLinkKinds);
}
bool run_fetch(std::span<const std::byte> bytes) {
  return run_frames(bytes, kFetchKinds);
}
bool run_checkpoint(std::span<const std::byte> bytes) {
  return run_frames(bytes, kCheckpointKinds);
}

// Each kind of request in turn.
bool run_request(std::span<const std::byte> bytes) {
  const auto accepted = [&](const auto& again) {
    try {
      const std::string text = again(bytes);
      require(std::ranges::equal(std::as_bytes(std::span(text)), bytes),
              "a request changes when rewritten");
      return true;
    } catch (const WorldError&) {
      return false;
    }
  };
  const bool hello = accepted([](ConstBytes b) { return encode_hello(decode_hello(b)); });
  const bool fetch = accepted([](ConstBytes b) { return encode_fetch(decode_fetch(b)); });
  const bool checkpoint = accepted(
      [](ConstBytes b) { return encode_checkpoint_request(decode_checkpoint_request(b)); });
  return hello || fetch || checkpoint;
}

std::string stream_of(const std::vector<OutgoingFrame>& frames) {
  std::string stream = "=";
  for (const std::string& message : test::messages_of(frames)) {
    const auto length = static_cast<std::uint32_t>(message.size());
    stream.append(reinterpret_cast<const char*>(&length), sizeof length);
    stream += message;
  }
  return stream;
}

std::string small_link() {
  auto data = std::make_shared<BallotData>(*test::make_ballot(3));
  data->gradients = {{1.0f, -2.0f, 3.0f}};
  data->contributes = {{1, 0}};
  return stream_of({make_frame(test::ballot_frame(4), data), make_frame(test::make_verdict(3, 1))});
}
std::string small_fetch() {
  ReplyFrame reply;
  reply.reply.from = kTestStart;
  reply.reply.landmarks = {{0, {1, 2}}};
  reply.records = 1;
  return stream_of({make_frame(reply), make_frame(make_record(kTestStart, 1, {1, 1, 1, 1, 1}))});
}
std::string small_checkpoint() {
  return stream_of({make_frame(ManifestFrame{"step-00000001", "{\"files\":[]}"}),
                    make_frame(FilePartFrame{0, 0, std::vector<std::byte>(5)})});
}

}  // namespace

std::vector<Entry> with_peer_entries(std::vector<Entry> entries) {
  entries.push_back({"peer_link", run_link, {small_link()}});
  entries.push_back({"peer_fetch", run_fetch, {small_fetch()}});
  entries.push_back({"peer_checkpoint", run_checkpoint, {small_checkpoint()}});
  entries.push_back(
      {"peer_request",
       run_request,
       {encode_hello({"run", 3, {1, 2}}), encode_fetch({"run", {{3, {1, 2}}, 5, {2, {3, 4}}}}),
        encode_checkpoint_request("run")}});
  return entries;
}

}  // namespace ballot::fuzz
