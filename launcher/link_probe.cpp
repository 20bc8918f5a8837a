#include "launcher/link_probe.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <optional>
#include <span>
#include <thread>

#include "core/error.h"
#include "launcher/rank_numbers.h"
#include "launcher/tcp_mesh.h"

namespace ballot {
namespace {

// What is sent is cut into blocks; the first byte of each says whether another one follows.
constexpr std::size_t kBlock = 64 * 1024;
constexpr std::byte kMore{0}, kLast{1};
constexpr int kPollMilliseconds = 50;
struct Progress {
  std::size_t offset = 0;  // in the block under way
  bool last = false;       // it is the last
};

std::size_t at(int rank) {
  return static_cast<std::size_t>(rank);
}

TimePoint after(TimePoint start, double duration) {
  return start + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(duration));
}

// The peers of one side of a run, polled together, and the patience with them.
class Side {
 public:
  Side(const TcpMesh& mesh, std::span<const int> peers, short events, const char* what,
       Duration patience)
      : mesh_(mesh), what_(what), patience_(patience) {
    for (const int peer : peers) {
      peers_.push_back(peer);
      polled_.push_back({mesh.socket(peer), events, 0});
    }
    last_progress_ = system_clock().now();
  }
  bool finished() const { return peers_.empty(); }

  // body(peer) for each that is ready: bytes moved, or nothing when this peer is finished.
  template <class Body>
  void advance(const Body& body) {
    if (::poll(polled_.data(), polled_.size(), kPollMilliseconds) < 0 && errno != EINTR)
      throw TransportError("cannot wait for sockets: {}", std::strerror(errno));
    bool moved = false;
    for (std::size_t i = 0; i < peers_.size();) {
      const std::optional<std::size_t> bytes =
          polled_[i].revents == 0 ? std::optional<std::size_t>(0) : body(peers_[i]);
      moved |= !bytes || *bytes > 0;
      if (bytes) {
        ++i;
      } else {
        peers_[i] = peers_.back();
        polled_[i] = polled_.back();
        peers_.pop_back();
        polled_.pop_back();
      }
    }
    const TimePoint now = system_clock().now();
    if (moved) last_progress_ = now;
    if (!peers_.empty() && now - last_progress_ > patience_)
      throw Timeout("rank {} {} {} for {:.0f} s", mesh_.rank(), what_, name_ranks(peers_),
                    seconds(patience_));
  }

 private:
  const TcpMesh& mesh_;
  const char* what_;
  Duration patience_;
  std::vector<int> peers_;
  std::vector<pollfd> polled_;
  TimePoint last_progress_;
};

void check_moved(ssize_t count, const TcpMesh& mesh, int peer) {
  if (count < 0 && errno != EAGAIN && errno != EINTR)
    throw PeerLost("rank {}'s TCP connection to rank {}: {}", mesh.rank(), peer,
                   std::strerror(errno));
}

// Sends blocks to all `peers` until `until`, then each its last.
void send_until(const TcpMesh& mesh, const std::vector<int>& peers, TimePoint until,
                Duration patience) {
  std::vector<std::byte> more(kBlock, kMore), last(kBlock, kMore);
  last[0] = kLast;
  std::vector<Progress> progress(at(mesh.size()));
  Side side(mesh, peers, POLLOUT, "could send nothing to", patience);
  while (!side.finished())
    side.advance([&](int peer) -> std::optional<std::size_t> {
      Progress& p = progress[at(peer)];
      std::size_t moved = 0;
      for (int blocks = 0; blocks < 8; ++blocks) {  // then it is another peer's turn
        if (p.offset == 0) p.last = system_clock().now() >= until;
        const std::vector<std::byte>& block = p.last ? last : more;
        const ssize_t count =
            ::send(mesh.socket(peer), block.data() + p.offset, kBlock - p.offset, MSG_NOSIGNAL);
        check_moved(count, mesh, peer);
        if (count <= 0) break;
        moved += static_cast<std::size_t>(count);
        p.offset += static_cast<std::size_t>(count);
        if (p.offset < kBlock) continue;
        p.offset = 0;
        if (p.last) return std::nullopt;
      }
      return moved;
    });
}

// Receives from all `peers` to their last blocks; bytes by rank that came within [begin, end).
std::vector<double> receive_within(const TcpMesh& mesh, const std::vector<int>& peers,
                                   TimePoint begin, TimePoint end, Duration patience) {
  std::vector<std::byte> buffer(4 * kBlock);
  std::vector<Progress> progress(at(mesh.size()));
  std::vector<double> counted(at(mesh.size()));
  Side side(mesh, peers, POLLIN, "received nothing from", patience);
  while (!side.finished())
    side.advance([&](int peer) -> std::optional<std::size_t> {
      const ssize_t count = ::recv(mesh.socket(peer), buffer.data(), buffer.size(), 0);
      check_moved(count, mesh, peer);
      if (count == 0)
        throw PeerLost("rank {} closed its TCP connection to rank {}", peer, mesh.rank());
      if (count < 0) return 0;
      const TimePoint now = system_clock().now();
      if (now >= begin && now < end) counted[at(peer)] += static_cast<double>(count);
      Progress& p = progress[at(peer)];
      for (std::size_t i = 0; i < static_cast<std::size_t>(count);) {
        if (p.offset == 0) p.last = buffer[i] == kLast;
        const std::size_t step = std::min(kBlock - p.offset, static_cast<std::size_t>(count) - i);
        i += step;
        p.offset = (p.offset + step) % kBlock;
        if (p.last && p.offset == 0) return std::nullopt;
      }
      return static_cast<std::size_t>(count);
    });
  return counted;
}

class Probe {
 public:
  Probe(Transport& transport, const LinkOptions& options)
      : transport_(transport),
        options_(options),
        mesh_(transport, Deadline::in(options.patience)) {}

  const TcpMesh& mesh() const { return mesh_; }

  // Bytes per second by [from][to], the median over runs, while those in `sends` are under way.
  std::vector<std::vector<double>> rates(const std::vector<std::pair<int, int>>& sends) {
    const int size = transport_.size();
    std::vector<int> targets, sources;
    for (const auto& [from, to] : sends) {
      if (from == transport_.rank()) targets.push_back(to);
      if (to == transport_.rank()) sources.push_back(from);
    }
    // Everybody begins with another peer.
    std::ranges::sort(targets, {}, [&](int r) { return (r - transport_.rank() + size) % size; });
    std::vector<std::vector<double>> by_run;  // [run][from], of what came here
    for (int run = 0; run < options_.runs; ++run) by_run.push_back(one_run(targets, sources));
    std::vector<double> mine;
    for (int from = 0; from < size; ++from) {
      std::vector<double> values;
      for (const auto& values_of_run : by_run) values.push_back(values_of_run[at(from)]);
      mine.push_back(quantile(values, 0.5) / options_.run_seconds);
    }
    const auto received = gather_numbers(transport_, mine, deadline());
    std::vector<std::vector<double>> result(at(size), std::vector<double>(at(size)));
    for (int from = 0; from < size; ++from)
      for (int to = 0; to < size; ++to) result[at(from)][at(to)] = received[at(to)][at(from)];
    return result;
  }

  // Round trips between two ranks; on the first of them in seconds, nothing elsewhere.
  std::vector<double> round_trips(int first, int second) {
    transport_.barrier(deadline());
    std::vector<double> times;
    if (transport_.rank() != first && transport_.rank() != second) return times;
    const int peer = transport_.rank() == first ? second : first;
    for (int i = 0; i < options_.pings; ++i) {
      Stopwatch watch;
      if (transport_.rank() == first) send_byte(peer);
      receive_byte(peer);
      if (transport_.rank() == first)
        times.push_back(watch.elapsed());
      else
        send_byte(peer);
    }
    return times;
  }

  Deadline deadline() const {
    return Deadline::in(2 * options_.patience +
                        std::chrono::duration_cast<Duration>(std::chrono::duration<double>(
                            options_.runs * (options_.ramp_seconds + options_.run_seconds))));
  }

 private:
  std::vector<double> one_run(const std::vector<int>& targets, const std::vector<int>& sources) {
    transport_.barrier(deadline());
    const TimePoint start = system_clock().now();
    const TimePoint begin = after(start, options_.ramp_seconds);
    const TimePoint end = after(begin, options_.run_seconds);
    std::exception_ptr failure;
    std::thread sender([&] {
      try {
        send_until(mesh_, targets, end, options_.patience);
      } catch (...) {
        failure = std::current_exception();
      }
    });
    std::vector<double> received(at(transport_.size()));
    std::exception_ptr own_failure;
    try {
      received = receive_within(mesh_, sources, begin, end, options_.patience);
    } catch (...) {
      own_failure = std::current_exception();
    }
    sender.join();
    if (own_failure) std::rethrow_exception(own_failure);
    if (failure) std::rethrow_exception(failure);
    return received;
  }

  void send_byte(int peer) {
    Side side(mesh_, std::span(&peer, 1), POLLOUT, "could send nothing to", options_.patience);
    while (!side.finished())
      side.advance([&](int) -> std::optional<std::size_t> {
        const std::byte byte{};
        const ssize_t count = ::send(mesh_.socket(peer), &byte, 1, MSG_NOSIGNAL);
        check_moved(count, mesh_, peer);
        return count == 1 ? std::nullopt : std::optional<std::size_t>(0);
      });
  }
  void receive_byte(int peer) {
    Side side(mesh_, std::span(&peer, 1), POLLIN, "received nothing from", options_.patience);
    while (!side.finished())
      side.advance([&](int) -> std::optional<std::size_t> {
        std::byte byte{};
        const ssize_t count = ::recv(mesh_.socket(peer), &byte, 1, 0);
        check_moved(count, mesh_, peer);
        if (count == 0)
          throw PeerLost("rank {} closed its TCP connection to rank {}", peer, mesh_.rank());
        return count == 1 ? std::nullopt : std::optional<std::size_t>(0);
      });
  }

  Transport& transport_;
  const LinkOptions& options_;
  TcpMesh mesh_;
};

}  // namespace

double LinkReport::rate() const {
  return egress.size() < 2 ? 0 : *std::ranges::min_element(egress);
}

double LinkReport::round_trip() const {
  double result = 0;
  for (const LinkPair& pair : pairs) result = std::max(result, pair.round_trip_median);
  return result;
}

LinkReport measure_link(Transport& transport, const LinkOptions& options) {
  require(options.runs > 0 && options.run_seconds > 0 && options.pings > 0,
          "{} runs of {} s and {} pings", options.runs, options.run_seconds, options.pings);
  const int size = transport.size();
  LinkReport report;
  Probe probe(transport, options);
  report.interfaces = gather_texts(transport, probe.mesh().interface_name(), probe.deadline());
  report.egress.assign(at(size), 0);
  report.ingress.assign(at(size), 0);
  if (size == 1) return report;

  for (int a = 0; a < size; ++a)
    for (int b = a + 1; b < size; ++b) {
      LinkPair there{a, b, 0, 0, 0, 0}, back{b, a, 0, 0, 0, 0};
      const std::vector<double> trips = probe.round_trips(a, b);
      const double own[] = {quantile(trips, 0.5), quantile(trips, 0.99)};
      const auto all = gather_numbers(transport, own, probe.deadline());
      there.round_trip_median = back.round_trip_median = all[at(a)][0];
      there.round_trip_p99 = back.round_trip_p99 = all[at(a)][1];
      if (options.pairs) {
        there.one_way = probe.rates({{a, b}})[at(a)][at(b)];
        back.one_way = probe.rates({{b, a}})[at(b)][at(a)];
        const auto both = probe.rates({{a, b}, {b, a}});
        there.both_ways = both[at(a)][at(b)];
        back.both_ways = both[at(b)][at(a)];
      }
      report.pairs.push_back(there);
      report.pairs.push_back(back);
    }

  std::vector<std::pair<int, int>> everybody;
  for (int a = 0; a < size; ++a)
    for (int b = 0; b < size; ++b)
      if (a != b) everybody.emplace_back(a, b);
  const auto rates = probe.rates(everybody);
  for (int a = 0; a < size; ++a)
    for (int b = 0; b < size; ++b) {
      report.egress[at(a)] += rates[at(a)][at(b)];
      report.ingress[at(b)] += rates[at(a)][at(b)];
    }
  transport.barrier(probe.deadline());
  return report;
}

}  // namespace ballot
