#include "launcher/coordinator_flags.h"

#include <CLI/CLI.hpp>

namespace ballot {

void add_access_flags(CLI::App& command, CoordinatorAccess& access) {
  command.add_option("--tls-ca", access.tls.ca,
                     "mutual TLS: PEM file of the authority of all who speak to each other");
  command.add_option("--tls-certificate,--tls-cert", access.tls.certificate,
                     "this process's PEM file");
  command.add_option("--tls-key", access.tls.key, "its private key");
}

}  // namespace ballot
