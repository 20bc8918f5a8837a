#include "runtime/watching/metrics_endpoint.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <thread>
#include <utility>

#include "collectives/transport/network_address.h"
#include "core/error.h"
#include "core/log.h"

namespace ballot {
namespace {

prometheus::MetricType type_of(MetricKind kind) {
  return kind == MetricKind::counter     ? prometheus::MetricType::Counter
         : kind == MetricKind::histogram ? prometheus::MetricType::Histogram
                                         : prometheus::MetricType::Gauge;
}

prometheus::ClientMetric::Histogram histogram_of(const MetricSample& sample) {
  prometheus::ClientMetric::Histogram histogram;
  histogram.sample_sum = sample.value;
  for (std::size_t i = 0; i < sample.counts.size(); ++i) {
    histogram.sample_count += sample.counts[i];
    histogram.bucket.push_back(
        {histogram.sample_count, i < kStepSecondsBounds.size()
                                     ? kStepSecondsBounds[i]
                                     : std::numeric_limits<double>::infinity()});
  }
  return histogram;
}

class Collected : public prometheus::Collectable {
 public:
  explicit Collected(std::shared_ptr<const MetricSource> source) : source_(std::move(source)) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    for (const MetricSample& sample : source_->collect()) {  // those of a metric in a row
      const MetricEntry& entry = entry_of(sample.metric);
      if (families.empty() || families.back().name != entry.name)
        families.push_back({entry.name, entry.help, type_of(entry.kind), {}});
      prometheus::ClientMetric metric;
      if (entry.label != nullptr) metric.label.push_back({entry.label, sample.label});
      if (entry.kind == MetricKind::counter)
        metric.counter.value = sample.value;
      else if (entry.kind == MetricKind::histogram)
        metric.histogram = histogram_of(sample);
      else
        metric.gauge.value = sample.value;
      families.back().metric.push_back(std::move(metric));
    }
    return families;
  }

 private:
  std::shared_ptr<const MetricSource> source_;
};

// CivetWeb looks every two seconds whether it shall stop, or when somebody knocks.
class Knocking {
 public:
  explicit Knocking(const NetworkAddress& at) : thread_([this, at] { knock(at); }) {}
  Knocking(const Knocking&) = delete;
  ~Knocking() {
    over_ = true;
    thread_.join();
  }

 private:
  void knock(const NetworkAddress& at) const {
    while (!over_) {
      try_to_connect(at);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  std::atomic<bool> over_{false};
  std::thread thread_;
};

}  // namespace

struct MetricsEndpoint::Server {
  NetworkAddress at;
  std::shared_ptr<Collected> collected;
  std::unique_ptr<prometheus::Exposer> exposer;

  ~Server() {
    if (exposer == nullptr) return;
    const Knocking knocking(at);
    exposer.reset();
  }
};

MetricsEndpoint::MetricsEndpoint(const std::string& listen, const std::string& what,
                                 std::shared_ptr<const MetricSource> source)
    : server_(std::make_unique<Server>()) {
  NetworkAddress at;
  try {
    at = resolve(parse_listen(listen, what + " ="));
  } catch (const TransportError& unknown) {
    throw ConfigError("{} = \"{}\": {}", what, listen, unknown.what());
  }
  server_->collected = std::make_shared<Collected>(std::move(source));
  try {
    server_->exposer = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", at.text(), "num_threads", "2", "request_timeout_ms", "5000"});
  } catch (const std::exception& failure) {
    std::string why = why_not_listen(at);
    if (why.empty())
      why = at.v6 ? "the HTTP server of this prometheus-cpp may know IPv4 addresses only (Debian's)"
                  : failure.what();
    throw ConfigError("{} = \"{}\": cannot listen at {}: {}", what, listen, at.text(), why);
  }
  const std::vector<int> ports = server_->exposer->GetListeningPorts();
  require(!ports.empty(), "an endpoint at {} without a port", at.text());
  at.port = static_cast<std::uint16_t>(ports.front());
  server_->at = at;
  address_ = at.text();
  server_->exposer->RegisterCollectable(server_->collected);
  log_info("metrics for Prometheus at http://{}/metrics", address_);
  if (!at.loopback())
    log_warning("{} = \"{}\": whoever reaches {} can read them, over plain HTTP", what, listen,
                address_);
}

MetricsEndpoint::~MetricsEndpoint() = default;

std::string MetricsEndpoint::reachable_address() const {
  for (const char* all : {"0.0.0.0:", "[::]:"}) {
    if (!address_.starts_with(all)) continue;
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    return host + address_.substr(std::string(all).size() - 1);
  }
  return address_;
}

}  // namespace ballot
