// Certificates for the tests, made by the openssl command.
#pragma once

#include <cstdlib>
#include <string>

#include "collectives/transport/grpc_transport.h"
#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace ballot::test {

class Certificates {
 public:
  Certificates() {
    authority("ca");
    authority("other_ca");
    worker("worker", "ca", 2);
    worker("expired", "ca", -1);
    worker("foreign", "other_ca", 2);
  }
  // "worker", "expired", signed by "ca"; "foreign" by "other_ca".
  GrpcTls tls(const std::string& name, const std::string& ca = "ca") const {
    return {path(ca + ".pem"), path(name + ".pem"), path(name + ".key"), ""};
  }
  std::string path(const std::string& file) const { return folder_.file(file); }

 private:
  void run(const std::string& command) const {
    const std::string line = "cd " + folder_.path() + " && openssl " + command + " 2>openssl.log";
    require(std::system(line.c_str()) == 0, "failed: {}", line);
  }
  void authority(const std::string& name) const {
    run("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=" +
        name + " -keyout " + name + ".key -out " + name + ".pem");
  }
  void worker(const std::string& name, const std::string& ca, int days) const {
    run("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=" + name +
        " -addext subjectAltName=DNS:ballot-worker,IP:127.0.0.1 -keyout " + name + ".key -out " +
        name + ".csr");
    run("x509 -req -copy_extensions copy -CAcreateserial -days " + std::to_string(days) + " -in " +
        name + ".csr -CA " + ca + ".pem -CAkey " + ca + ".key -out " + name + ".pem");
  }

  TemporaryFolder folder_;
};

}  // namespace ballot::test
