#include "runtime/elastic/peer_frames_requests.h"

#include "core/error.h"
#include "runtime/journal/byte_io.h"

namespace ballot {
namespace {

// What the bytes are, so that one is never taken for another.
enum class Request : std::uint32_t { hello = 1, fetch = 2, checkpoint = 3 };

ByteWriter begin(Request request, const std::string& run) {
  require(!run.empty() && run.size() <= kMostRequestTextBytes, "a run's name of {} bytes",
          run.size());
  ByteWriter out;
  out.put(static_cast<std::uint32_t>(request));
  out.put(kPeerFramesVersion);
  out.put(static_cast<std::uint64_t>(run.size()));
  out.put_all(std::vector<char>(run.begin(), run.end()));
  out.pad();
  return out;
}

std::string end(ByteWriter out) {
  const std::vector<std::byte> bytes = out.take();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void put(ByteWriter& out, const Position& position) {
  out.put(position.step);
  out.put(position.digest);
}

std::string get_run(ByteReader& in, Request expected) {
  const auto request = in.get<std::uint32_t>("kind of request");
  if (request != static_cast<std::uint32_t>(expected))
    in.fail("a request of kind {}, expected {}", request, static_cast<std::uint32_t>(expected));
  const auto version = in.get<std::uint32_t>("version");
  if (version != kPeerFramesVersion)
    in.fail("version {} of the peer protocol, expected {}", version, kPeerFramesVersion);
  const auto size = in.get<std::uint64_t>("bytes of a run's name");
  if (size == 0 || size > kMostRequestTextBytes)
    in.fail("a run's name of {} bytes, expected 1 to {}", size, kMostRequestTextBytes);
  const std::vector<char> run = in.get_all<char>(size, "run");
  in.skip_padding();
  return {run.begin(), run.end()};
}

std::int64_t get_count(ByteReader& in, const char* what) {
  const auto value = in.get<std::int64_t>(what);
  if (value < 0) in.fail("{} = {}, expected 0 or more", what, value);
  return value;
}

Position get_position(ByteReader& in, const char* what) {
  const std::int64_t step = get_count(in, what);
  return {step, in.get_digest(what)};
}

template <class Body>
auto decode(ConstBytes bytes, const char* what, const Body& body) {
  if (bytes.size() > kMostPeerRequestBytes)
    throw TransportError("{} of {} bytes, expected at most {}", what, bytes.size(),
                         kMostPeerRequestBytes);
  try {
    ByteReader in(bytes, what, 0);
    auto value = body(in);
    if (in.left() != 0) in.fail("{} bytes after the end", in.left());
    return value;
  } catch (const CorruptFile& error) {
    throw TransportError("{}", error.what());
  }
}

}  // namespace

std::string encode_hello(const Hello& hello) {
  ByteWriter out = begin(Request::hello, hello.run);
  out.put(hello.term);
  out.put(static_cast<std::int64_t>(hello.identity.worker));
  out.put(hello.identity.incarnation);
  return end(std::move(out));
}

Hello decode_hello(ConstBytes bytes) {
  return decode(bytes, "a hello", [](ByteReader& in) {
    Hello hello;
    hello.run = get_run(in, Request::hello);
    hello.term = get_count(in, "term");
    const std::int64_t worker = get_count(in, "worker");
    if (worker >= kMostPeers) in.fail("worker {}, expected 0 to {}", worker, kMostPeers - 1);
    hello.identity = {static_cast<std::int32_t>(worker), get_count(in, "incarnation")};
    return hello;
  });
}

std::string encode_fetch(const FetchRequest& request) {
  ByteWriter out = begin(Request::fetch, request.run);
  put(out, request.fetch.from);
  out.put(request.fetch.term);
  put(out, request.fetch.start);
  return end(std::move(out));
}

FetchRequest decode_fetch(ConstBytes bytes) {
  return decode(bytes, "a fetch", [](ByteReader& in) {
    FetchRequest request;
    request.run = get_run(in, Request::fetch);
    request.fetch.from = get_position(in, "from");
    request.fetch.term = get_count(in, "term");
    request.fetch.start = get_position(in, "start");
    return request;
  });
}

std::string encode_checkpoint_request(const std::string& run) {
  return end(begin(Request::checkpoint, run));
}

std::string decode_checkpoint_request(ConstBytes bytes) {
  return decode(bytes, "a request for a checkpoint",
                [](ByteReader& in) { return get_run(in, Request::checkpoint); });
}

}  // namespace ballot
