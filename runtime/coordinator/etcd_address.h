// Where an etcd cluster listens: "etcd://host:port[,host:port...]", with TLS "etcds://...".
#pragma once

#include <string>
#include <vector>

namespace ballot {

struct EtcdAddress {
  std::vector<std::string> members;  // "host:port", at least one
  bool tls = false;
  std::string text() const;
};

// Whether the text is meant to be one.
bool is_etcd_address(const std::string& text);
// ConfigError, with the text and what was expected.
EtcdAddress parse_etcd_address(const std::string& text);

}  // namespace ballot
