// A submitted job as it is remembered here (cluster/job_record.h), so that `ballot jobs`, `logs`
// and `stop` find it in its cluster again.
#pragma once

#include <optional>
#include <string>

#include "launcher/kubernetes/kubectl.h"

namespace ballot {

struct RecordedKubernetesJob {
  KubernetesOperator controller = KubernetesOperator::none;
  KubectlOptions options;  // of those the context, the namespace and kubectl's configuration
  std::string name;
};

// The record's id, and back; DataError for another text.
std::string to_id(const RecordedKubernetesJob& job);
RecordedKubernetesJob parse_kubernetes_id(const std::string& id);

// `worker`: "3", "coordinator", "launcher", or empty for all one after the other; `lines`: the last
// ones of each, -1: all. follow: of one only, until it ends.
void print_kubernetes_logs(const RecordedKubernetesJob& job, int workers, const std::string& worker,
                           int lines, bool follow);

}  // namespace ballot
