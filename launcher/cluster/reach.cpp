// Sockets that do not block, and one poll() over all of them.
#include "launcher/cluster/reach.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launcher/child_process.h"  // Descriptor

namespace ballot {
namespace {

// "ballot-probe <caller>\n", answered by "ballot-probe ok\n": somebody else's port is told apart.
constexpr std::string_view kGreeting = "ballot-probe ", kAnswer = "ballot-probe ok\n";
constexpr std::size_t kLongest = 64;
constexpr Duration kRetryPause = std::chrono::milliseconds(100);

sockaddr_in socket_address(const HostAddress& at) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(at.port));
  if (::inet_pton(AF_INET, at.address.c_str(), &address.sin_addr) != 1)
    throw ConfigError("\"{}\" is no IPv4 address", at.address);
  return address;
}

Descriptor make_socket() {
  Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) throw_file_error("make", "a socket");
  return socket;
}

struct Call {  // to one peer
  Descriptor socket;
  bool connecting = false, done = false;
  std::string answer, problem = "not tried";
  TimePoint next_try{}, asked{};
  double milliseconds = 0;
};

struct Visit {  // of one peer
  Descriptor socket;
  std::string greeting;
};

class Reaching {
 public:
  Reaching(const std::vector<HostAddress>& peers, std::size_t self, Deadline deadline)
      : peers_(peers),
        self_(self),
        deadline_(deadline),
        calls_(peers.size()),
        greeted_(peers.size()) {
    listener_ = make_socket();
    const int yes = 1;
    ::setsockopt(listener_.number(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    const sockaddr_in here = socket_address(peers[self]);
    if (::bind(listener_.number(), reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0 ||
        ::listen(listener_.number(), 1024) != 0)
      throw TransportError("cannot listen at {}:{}: {}", peers[self].address, peers[self].port,
                           std::strerror(errno));
    calls_[self].done = true;
    calls_[self].problem.clear();
    greeted_[self] = true;
  }

  ReachReport run() {
    while (!deadline_.passed() && !over()) {
      for (std::size_t p = 0; p < peers_.size(); ++p) {
        Call& call = calls_[p];
        if (!call.done && !call.socket.is_open() && system_clock().now() >= call.next_try) dial(p);
      }
      wait();
    }
    ReachReport report;
    for (const Call& call : calls_) {
      report.problems.push_back(call.done ? "" : call.problem);
      report.milliseconds.push_back(call.done ? call.milliseconds : 0);
    }
    return report;
  }

 private:
  bool over() const {
    return std::all_of(calls_.begin(), calls_.end(), [](const Call& call) { return call.done; }) &&
           std::find(greeted_.begin(), greeted_.end(), false) == greeted_.end();
  }

  void dial(std::size_t p) {
    Call& call = calls_[p];
    call.socket = make_socket();
    call.answer.clear();
    call.connecting = true;
    // From the address that the job will be seen at.
    sockaddr_in here = socket_address({peers_[self_].address, 0});
    const sockaddr_in there = socket_address(peers_[p]);
    if (::bind(call.socket.number(), reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0 ||
        (::connect(call.socket.number(), reinterpret_cast<const sockaddr*>(&there), sizeof there) !=
             0 &&
         errno != EINPROGRESS))
      return fail(call, std::strerror(errno));
    call.problem = "no answer";
  }
  void fail(Call& call, const std::string& problem) {
    call.problem = problem;
    call.socket.close();
    call.next_try = system_clock().now() + kRetryPause;
  }

  void wait() {
    std::vector<pollfd> waits{{listener_.number(), POLLIN, 0}};
    for (const Call& call : calls_)
      waits.push_back({call.socket.is_open() ? call.socket.number() : -1,
                       static_cast<short>(call.connecting ? POLLOUT : POLLIN), 0});
    for (const Visit& visit : visits_) waits.push_back({visit.socket.number(), POLLIN, 0});
    if (::poll(waits.data(), waits.size(), 20) < 0 && errno != EINTR)
      throw_file_error("wait for", "the other hosts");
    for (std::size_t p = 0; p < calls_.size(); ++p)
      if (waits[1 + p].revents != 0) go_on(calls_[p]);
    const std::size_t first = 1 + calls_.size(), count = visits_.size();
    for (std::size_t v = 0; v < count; ++v)
      if (waits[first + v].revents != 0) receive(visits_[v]);
    std::erase_if(visits_, [](const Visit& visit) { return !visit.socket.is_open(); });
    while (true) {
      Descriptor visitor(
          ::accept4(listener_.number(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!visitor.is_open() || visits_.size() > 4 * peers_.size() + 16) break;
      visits_.push_back({std::move(visitor), ""});
    }
  }

  void go_on(Call& call) {
    if (call.connecting) {
      int error = 0;
      socklen_t size = sizeof error;
      ::getsockopt(call.socket.number(), SOL_SOCKET, SO_ERROR, &error, &size);
      if (error != 0) return fail(call, std::strerror(error));
      call.connecting = false;
      const std::string greeting = fmt::format("{}{}\n", kGreeting, self_);
      call.asked = system_clock().now();
      if (::send(call.socket.number(), greeting.data(), greeting.size(), MSG_NOSIGNAL) !=
          static_cast<ssize_t>(greeting.size()))
        fail(call, std::strerror(errno));
      return;
    }
    char bytes[kLongest];
    const ssize_t count = ::read(call.socket.number(), bytes, sizeof bytes);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0)
      return fail(call, count == 0 ? "closed the connection; somebody else listens there"
                                   : std::strerror(errno));
    call.answer.append(bytes, static_cast<std::size_t>(count));
    if (call.answer == kAnswer) {
      call.milliseconds = 1000 * seconds(system_clock().now() - call.asked);
      call.done = true;
      call.socket.close();
    } else if (!kAnswer.starts_with(call.answer)) {
      fail(call, "somebody else listens there");
    }
  }

  void receive(Visit& visit) {
    char bytes[kLongest];
    const ssize_t count = ::read(visit.socket.number(), bytes, sizeof bytes);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count > 0) visit.greeting.append(bytes, static_cast<std::size_t>(count));
    const std::size_t end = visit.greeting.find('\n');
    if (count > 0 && end == std::string::npos && visit.greeting.size() < kLongest) return;
    if (end != std::string::npos && visit.greeting.starts_with(kGreeting)) {
      std::size_t caller = 0;
      const char* digits = visit.greeting.data() + kGreeting.size();
      const auto [stop, error] = std::from_chars(digits, visit.greeting.data() + end, caller);
      if (error == std::errc{} && caller < greeted_.size() &&
          ::send(visit.socket.number(), kAnswer.data(), kAnswer.size(), MSG_NOSIGNAL) ==
              static_cast<ssize_t>(kAnswer.size()))
        greeted_[caller] = true;
    }
    visit.socket.close();
  }

  const std::vector<HostAddress>& peers_;
  const std::size_t self_;
  const Deadline deadline_;
  Descriptor listener_;
  std::vector<Call> calls_;
  std::vector<Visit> visits_;
  std::vector<bool> greeted_;
};

}  // namespace

ReachReport try_to_reach(const std::vector<HostAddress>& peers, std::size_t self,
                         Deadline deadline) {
  require(self < peers.size(), "host {} of {}", self, peers.size());
  return Reaching(peers, self, deadline).run();
}

std::string encode_report(const ReachReport& report) {
  return nlohmann::ordered_json{{"problems", report.problems},
                                {"milliseconds", report.milliseconds}}
      .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

ReachReport decode_report(std::string_view line, std::size_t peers) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("problems") || !json.contains("milliseconds"))
    throw DataError("a report of reached hosts: expected problems and milliseconds");
  const auto &problems = json["problems"], &times = json["milliseconds"];
  if (!problems.is_array() || !times.is_array() || problems.size() != peers ||
      times.size() != peers)
    throw DataError("a report of reached hosts: expected one entry for each of {} hosts", peers);
  ReachReport report;
  for (std::size_t p = 0; p < peers; ++p) {
    if (!problems[p].is_string() || !times[p].is_number() || !std::isfinite(times[p].get<double>()))
      throw DataError("a report of reached hosts: entry {} is no text and number", p);
    report.problems.push_back(problems[p].get<std::string>());
    report.milliseconds.push_back(times[p].get<double>());
  }
  return report;
}

HostAddress parse_host_address(const std::string& flag, const std::string& text) {
  const std::size_t colon = text.rfind(':');
  HostAddress at;
  in_addr ignored{};
  if (colon != std::string::npos) {
    at.address = text.substr(0, colon);
    const char *begin = text.data() + colon + 1, *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(begin, end, at.port);
    if (error == std::errc{} && stop == end && at.port >= 1 && at.port <= 65535 &&
        ::inet_pton(AF_INET, at.address.c_str(), &ignored) == 1)
      return at;
  }
  throw ConfigError("{} {}: expected an IPv4 address and a port such as 10.0.0.1:4711", flag, text);
}

}  // namespace ballot
