// deploy/certificates: what it makes, what it refuses, and a run whose coordinator and workers
// speak mutual TLS with it.
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <memory>

#include "tests/process/small_run.h"
#include "tests/support/free_port.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

class CertificatesScript : public SmallRun {
 protected:
  // Its exit code and output.
  Ended make(const std::string& arguments) const {
    const std::string output = file("made.log");
    const int status = std::system(("cd '" + file("") + "' && '" + BALLOT_CERTIFICATES + "' " +
                                    arguments + " > '" + output + "' 2>&1")
                                       .c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, read("made.log")};
  }
  std::string openssl(const std::string& arguments) const {
    const std::string output = file("openssl.log");
    EXPECT_EQ(
        std::system(
            ("cd '" + file("") + "' && openssl " + arguments + " > '" + output + "' 2>&1").c_str()),
        0)
        << arguments << "\n"
        << read("openssl.log");
    return read("openssl.log");
  }
  int mode(const std::string& name) const {
    struct stat seen {};
    EXPECT_EQ(::stat(file(name).c_str(), &seen), 0) << name;
    return seen.st_mode & 0777;
  }
};

TEST_F(CertificatesScript, MakesAnAuthorityAndWhatItSigns) {
  const Ended made = make(
      "certificates --days 3 --coordinator coordinator.example,10.0.0.1 "
      "node1,10.0.0.2,::1 node2");
  ASSERT_EQ(made.exit_code, 0) << made.output;
  for (const char* name : {"ca", "coordinator", "node1", "node2"}) {
    const std::string path = std::string("certificates/") + name;
    EXPECT_EQ(mode(path + ".key"), 0600) << name;
    EXPECT_EQ(mode(path + ".pem"), 0644) << name;
    EXPECT_THAT(openssl("verify -CAfile certificates/ca.pem " + path + ".pem"), HasSubstr("OK"));
  }
  EXPECT_THAT(openssl("x509 -noout -ext subjectAltName -in certificates/node1.pem"),
              HasSubstr("DNS:node1, IP Address:10.0.0.2, IP Address:0:0:0:0:0:0:0:1"));
  EXPECT_THAT(openssl("x509 -noout -ext subjectAltName -in certificates/coordinator.pem"),
              HasSubstr("DNS:coordinator.example, IP Address:10.0.0.1"));
  openssl("x509 -noout -checkend 172800 -in certificates/node2.pem");  // two of three days
  EXPECT_THAT(openssl("verify -x509_strict -purpose sslserver -CAfile certificates/ca.pem "
                      "certificates/coordinator.pem"),
              HasSubstr("OK"));
  EXPECT_THAT(
      openssl("verify -purpose sslclient -CAfile certificates/ca.pem certificates/node1.pem"),
      HasSubstr("OK"));
}

TEST_F(CertificatesScript, OverwritesNothingAndAddsHostsLater) {
  ASSERT_EQ(make("certificates node1").exit_code, 0);
  const std::string authority = read("certificates/ca.pem"), key = read("certificates/node1.key");
  const Ended again = make("certificates node2 node1");
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_THAT(again.output, HasSubstr("certificates/node1.pem is there already"));
  EXPECT_FALSE(std::filesystem::exists(file("certificates/node2.pem"))) << "nothing by halves";
  ASSERT_EQ(make("certificates node2").exit_code, 0);
  EXPECT_EQ(read("certificates/ca.pem"), authority);
  EXPECT_EQ(read("certificates/node1.key"), key);
  EXPECT_THAT(openssl("verify -CAfile certificates/ca.pem certificates/node2.pem"),
              HasSubstr("OK"));
  std::filesystem::remove(file("certificates/ca.key"));
  EXPECT_THAT(make("certificates node3").output, HasSubstr("ca.pem is there without ca.key"));
}

TEST_F(CertificatesScript, RefusesWhatItCannotMake) {
  const auto refused = [this](const std::string& arguments, const std::string& why) {
    const Ended ended = make(arguments);
    EXPECT_EQ(ended.exit_code, 2) << arguments;
    EXPECT_THAT(ended.output, HasSubstr(why)) << arguments;
    EXPECT_FALSE(std::filesystem::exists(file("certificates"))) << arguments;
  };
  refused("", "no folder is named");
  refused("certificates", "nothing to make");
  refused("certificates --days 0 node1", "--days 0: expected");
  refused("certificates --days", "--days: expected a value");
  refused("certificates --years 1 node1", "--years: no such option");
  refused("certificates 'node 1'", "\"node 1\": expected a host name or an address");
  refused("certificates 'a/../b'", "expected a host name or an address");
  refused("certificates node1 node1,10.0.0.1", "node1 is named twice");
  refused("certificates ca", "would take the authority's files");
}

TEST_F(CertificatesScript, ARunSpeaksMutualTlsWithThem) {
  const Ended made = make("certificates --coordinator 127.0.0.1 node1,127.0.0.1 node2,127.0.0.1");
  ASSERT_EQ(made.exit_code, 0) << made.output;
  ASSERT_EQ(make("foreign node1,127.0.0.1").exit_code, 0);
  const std::string address = "127.0.0.1:" + std::to_string(test::free_port());
  const auto tls = [](const std::string& folder, const std::string& name) {
    return std::vector<std::string>{"--tls-ca",          folder + "/ca.pem",
                                    "--tls-certificate", folder + "/" + name + ".pem",
                                    "--tls-key",         folder + "/" + name + ".key"};
  };
  const auto with = [](std::vector<std::string> words, const std::vector<std::string>& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const Environment one_thread{{"OMP_NUM_THREADS", "1"}};
  Command coordinator(with({"coordinator", "out", "--listen", address, "--start-workers", "2"},
                           tls("certificates", "coordinator")),
                      file(""), one_thread);
  const auto worker = [&](int number, const std::string& folder, const std::string& name) {
    return with({"train", "run.toml", "--coordinator", address, "--worker", std::to_string(number),
                 "--set", "vote.deadline_seconds=60"},
                tls(folder, name));
  };
  Command first(worker(0, "certificates", "node1"), file(""), one_thread),
      second(worker(1, "certificates", "node2"), file(""), one_thread);
  const Ended ended = first.wait(120s);
  EXPECT_EQ(ended.exit_code, 0) << ended.output << coordinator.output();
  EXPECT_EQ(second.wait(60s).exit_code, 0);
  EXPECT_EQ(metrics("out", "step").size(), 8u);

  // Who shows a certificate of the authority is answered, nobody else.
  const auto status = [&](const std::vector<std::string>& access) {
    return ballot(with({"status", address, "--timeout", "3s"}, access));
  };
  const Ended answered = status(tls("certificates", "node1"));
  EXPECT_EQ(answered.exit_code, 0) << answered.output;
  EXPECT_THAT(answered.output, HasSubstr("committed of 8"));
  EXPECT_NE(status(tls("foreign", "node1")).exit_code, 0);
  EXPECT_NE(status({}).exit_code, 0);
}

}  // namespace
}  // namespace ballot
