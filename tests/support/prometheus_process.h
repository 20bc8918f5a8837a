// A real Prometheus server on loopback, with a configuration and a data folder of its own.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/free_port.h"
#include "tests/support/http_get.h"
#include "tests/support/temporary_folder.h"

namespace ballot::test {

class PrometheusProcess {
 public:
  // Serves when this returns. Throws, naming what is missing, where there is no Prometheus: these
  // tests are not skipped.
  explicit PrometheusProcess(const std::string& configuration) : port_(free_port()) {
    const std::string file = folder_.file("prometheus.yml");
    std::ofstream(file) << configuration;
    words_ = {"prometheus", "--config.file=" + file, "--storage.tsdb.path=" + folder_.file("data"),
              fmt::format("--web.listen-address=127.0.0.1:{}", port_), "--log.level=warn"};
    launch();
    wait();
  }
  PrometheusProcess(const PrometheusProcess&) = delete;
  PrometheusProcess& operator=(const PrometheusProcess&) = delete;
  ~PrometheusProcess() {
    if (id_ <= 0) return;
    ::kill(id_, SIGKILL);
    ::waitpid(id_, nullptr, 0);
  }

  std::string address() const { return fmt::format("127.0.0.1:{}", port_); }
  // The answer's "result": a list of {metric, value: [time, text]}.
  nlohmann::json query(const std::string& expression) const {
    const std::string answer = http_get(port_, "/api/v1/query?query=" + in_url(expression));
    const auto body = answer.find("\r\n\r\n");
    const nlohmann::json parsed =
        nlohmann::json::parse(body == std::string::npos ? "" : answer.substr(body), nullptr, false);
    if (!parsed.is_object() || parsed.value("status", "") != "success")
      throw std::runtime_error(fmt::format("{}: Prometheus says {}", expression, answer));
    return parsed["data"]["result"];
  }
  std::string log() const {
    std::ostringstream text;
    text << std::ifstream(folder_.file("log")).rdbuf();
    return text.str();
  }

 private:
  static std::string in_url(const std::string& text) {
    std::string result;
    for (const char c : text)
      result += std::isalnum(static_cast<unsigned char>(c)) != 0
                    ? std::string(1, c)
                    : fmt::format("%{:02X}", static_cast<unsigned char>(c));
    return result;
  }
  void launch() {
    std::vector<char*> argv;
    for (std::string& word : words_) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string log = folder_.file("log");
    const int output = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    const pid_t parent = ::getpid();
    id_ = ::fork();
    if (id_ == 0) {  // only what is safe between fork and exec
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(126);
      ::dup2(output, STDOUT_FILENO);
      ::dup2(output, STDERR_FILENO);
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(output);
  }
  void wait() {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (http_get(port_, "/-/ready").find(" 200 ") == std::string::npos) {
      int status = 0;
      if (::waitpid(id_, &status, WNOHANG) == id_) {
        id_ = -1;
        throw std::runtime_error(
            WIFEXITED(status) && WEXITSTATUS(status) == 127
                ? "there is no prometheus here: install Debian's package of this name"
                : "prometheus ended: " + log());
      }
      if (std::chrono::steady_clock::now() > limit)
        throw std::runtime_error("prometheus does not serve after 60 s: " + log());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  TemporaryFolder folder_;
  const int port_;
  std::vector<std::string> words_;
  pid_t id_ = -1;
};

}  // namespace ballot::test
