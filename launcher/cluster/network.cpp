#include "launcher/cluster/network.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

#include "core/error.h"

namespace ballot {
namespace {

struct Network {
  std::uint32_t base = 0;
  int prefix = 0;
  auto operator<=>(const Network&) const = default;
};

std::uint32_t number_of(const std::string& address) {
  in_addr value{};
  ::inet_pton(AF_INET, address.c_str(), &value);
  return ntohl(value.s_addr);
}
std::uint32_t mask_of(int prefix) {
  return prefix == 0 ? 0 : ~std::uint32_t{0} << (32 - prefix);
}
Network network_of(const NetworkInterface& interface) {
  return {number_of(interface.address) & mask_of(interface.prefix), interface.prefix};
}
std::string text_of(const Network& network) {
  return fmt::format("{}.{}.{}.{}/{}", network.base >> 24, network.base >> 16 & 255,
                     network.base >> 8 & 255, network.base & 255, network.prefix);
}

bool is_of_containers(const NetworkInterface& interface) {
  const auto begins = [&](const char* with) { return interface.name.starts_with(with); };
  return begins("docker") || begins("veth") || begins("virbr") || begins("br-") || begins("cni") ||
         begins("flannel") || begins("cali") || begins("lxc") || begins("podman");
}
bool is_link_local(const NetworkInterface& interface) {
  return number_of(interface.address) >> 16 == (169u << 8 | 254u);
}

std::string list_of(const std::vector<std::string>& hosts, const std::vector<HostFacts>& facts) {
  std::string out;
  for (std::size_t h = 0; h < hosts.size(); ++h) {
    out += fmt::format("\n  {}:", hosts[h]);
    for (const NetworkInterface& interface : facts[h].interfaces)
      out += fmt::format(" {} {}/{}", interface.name, interface.address, interface.prefix);
    if (facts[h].interfaces.empty()) out += " none";
  }
  return out;
}

bool one_machine(const std::vector<HostFacts>& facts) {
  return std::all_of(facts.begin(), facts.end(),
                     [&](const HostFacts& other) { return other.machine == facts[0].machine; });
}

std::optional<Network> parse_network(const std::string& text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string::npos) return std::nullopt;
  in_addr base{};
  int prefix = 0;
  const char *begin = text.data() + slash + 1, *end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, prefix);
  if (::inet_pton(AF_INET, text.substr(0, slash).c_str(), &base) != 1 || error != std::errc{} ||
      stop != end || prefix < 0 || prefix > 32)
    throw ConfigError(
        "--interface {}: expected an interface's name or a network such as 10.0.0.0/8", text);
  return Network{ntohl(base.s_addr) & mask_of(prefix), prefix};
}

NetworkChoice choose_asked(const std::vector<std::string>& hosts,
                           const std::vector<HostFacts>& facts, const std::string& asked) {
  const std::optional<Network> network = parse_network(asked);
  NetworkChoice choice;
  for (std::size_t h = 0; h < hosts.size(); ++h) {
    const auto& all = facts[h].interfaces;
    const auto found = std::find_if(all.begin(), all.end(), [&](const NetworkInterface& one) {
      return network ? (number_of(one.address) & mask_of(network->prefix)) == network->base
                     : one.name == asked;
    });
    if (found == all.end())
      throw ConfigError(
          "--interface {}: {} has no such {} that is up and has an IPv4 address; the "
          "hosts have{}",
          asked, hosts[h], network ? "network" : "interface", list_of(hosts, facts));
    if (found->loopback && !one_machine(facts))
      throw ConfigError(
          "--interface {}: that is loopback, by which {} reaches only itself; the "
          "hosts have{}",
          asked, hosts[h], list_of(hosts, facts));
    choice.of_host.push_back(*found);
  }
  choice.reason = "asked for by --interface " + asked;
  return choice;
}

}  // namespace

NetworkChoice choose_network(const std::vector<std::string>& hosts,
                             const std::vector<HostFacts>& facts,
                             const std::vector<std::string>& resolved, const std::string& asked) {
  require(!hosts.empty() && facts.size() == hosts.size() && resolved.size() == hosts.size(),
          "facts of {} and addresses of {} for {} hosts", facts.size(), resolved.size(),
          hosts.size());
  if (!asked.empty()) return choose_asked(hosts, facts, asked);

  // Nobody else can listen in.
  if (one_machine(facts)) {
    NetworkChoice choice;
    for (const HostFacts& of_host : facts)
      for (const NetworkInterface& interface : of_host.interfaces)
        if (interface.loopback && number_of(interface.address) == INADDR_LOOPBACK &&
            choice.of_host.size() < facts.size())
          choice.of_host.push_back(interface);
    if (choice.of_host.size() == facts.size()) {
      choice.reason = "all hosts are one machine: loopback";
      return choice;
    }
  }
  // Each network that all hosts are on, with the interface of each.
  std::map<Network, std::vector<NetworkInterface>> common;
  for (std::size_t h = 0; h < hosts.size(); ++h)
    for (const NetworkInterface& interface : facts[h].interfaces) {
      if (interface.loopback || is_of_containers(interface) || is_link_local(interface)) continue;
      std::vector<NetworkInterface>& of_host = common[network_of(interface)];
      if (of_host.size() == h) of_host.push_back(interface);
    }
  std::erase_if(common, [&](const auto& entry) { return entry.second.size() < hosts.size(); });
  if (common.size() == 1) {
    const auto& [network, of_host] = *common.begin();
    return {of_host, fmt::format("{} is the only network that all hosts are on", text_of(network))};
  }

  // The names that the user gave may say which.
  NetworkChoice named;
  for (std::size_t h = 0; h < hosts.size(); ++h)
    for (const NetworkInterface& interface : facts[h].interfaces)
      if (interface.address == resolved[h] && !interface.loopback && named.of_host.size() == h)
        named.of_host.push_back(interface);
  if (named.of_host.size() == hosts.size()) {
    named.reason = "the hosts' names are for these addresses";
    return named;
  }

  const auto speed_of = [](const std::vector<NetworkInterface>& of_host) {
    std::int64_t least = of_host[0].megabits;
    for (const NetworkInterface& interface : of_host) least = std::min(least, interface.megabits);
    return least;
  };
  if (common.size() > 1) {
    std::vector<std::pair<std::int64_t, Network>> by_speed;
    for (const auto& [network, of_host] : common) by_speed.emplace_back(speed_of(of_host), network);
    std::sort(by_speed.rbegin(), by_speed.rend());
    if (by_speed[0].first > by_speed[1].first)
      return {common[by_speed[0].second],
              fmt::format("{} is the fastest network that all hosts are on ({} Mbit/s)",
                          text_of(by_speed[0].second), by_speed[0].first)};
  }

  throw ConfigError("{}; say which with --interface NAME or NETWORK/BITS. The hosts have{}",
                    common.empty() ? "there is no network that all hosts are on"
                                   : "the hosts are on several networks in common",
                    list_of(hosts, facts));
}

std::string network_text(const NetworkInterface& interface) {
  return text_of(network_of(interface));
}

std::string nccl_interface(const NetworkInterface& interface) {
  return interface.loopback ? "" : "=" + interface.name;  // "=": the whole name
}

std::string resolve(const std::string& host) {
  const std::size_t at = host.rfind('@');
  const std::string name = at == std::string::npos ? host : host.substr(at + 1);
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (::getaddrinfo(name.c_str(), nullptr, &hints, &list) != 0) return "";
  char text[INET_ADDRSTRLEN] = "";
  ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(list->ai_addr)->sin_addr, text,
              sizeof text);
  ::freeaddrinfo(list);
  return text;
}

}  // namespace ballot
