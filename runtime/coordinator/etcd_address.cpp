#include "runtime/coordinator/etcd_address.h"

#include <fmt/ranges.h>

#include "collectives/transport/network_address.h"
#include "core/error.h"

namespace ballot {
namespace {

constexpr const char *kPlain = "etcd://", *kTls = "etcds://";

}  // namespace

std::string EtcdAddress::text() const {
  return fmt::format("{}{}", tls ? kTls : kPlain, fmt::join(members, ","));
}

bool is_etcd_address(const std::string& text) {
  return text.starts_with(kPlain) || text.starts_with(kTls);
}

EtcdAddress parse_etcd_address(const std::string& text) {
  if (!is_etcd_address(text))
    throw ConfigError("store \"{}\": expected etcd://host:port[,host:port...] or etcds://...",
                      text);
  EtcdAddress address;
  address.tls = text.starts_with(kTls);
  const std::string list = text.substr(std::string(address.tls ? kTls : kPlain).size());
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    address.members.push_back(list.substr(at, end - at));
    parse_host_port(address.members.back(), "store \"" + text + "\"");
    at = end + 1;
  }
  return address;
}

}  // namespace ballot
