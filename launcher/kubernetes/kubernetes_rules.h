// What Kubernetes takes as a name, a label, a quantity. ConfigError names the thing, its value and
// the rule, before a server has to.
#pragma once

#include <cstddef>
#include <string>

namespace ballot {

// RFC 1035: lower-case letters, digits and '-', a letter first, no '-' last. Services, Jobs and
// what is named after them.
void require_dns_label(const std::string& what, const std::string& value, std::size_t longest = 63);

// RFC 1123: labels joined by dots, 253 at most. Secrets, claims, service accounts.
void require_dns_subdomain(const std::string& what, const std::string& value);

// "[prefix/]name".
void require_label_key(const std::string& what, const std::string& value);
void require_label_value(const std::string& what, const std::string& value);

// An image reference, as far as it can be judged without a registry.
void require_image(const std::string& what, const std::string& value);

// "500m", "1.5", "8Gi", "1e3" -> 0.5, 1.5, 8589934592, 1000; greater than 0.
double parse_quantity(const std::string& what, const std::string& value);

}  // namespace ballot
