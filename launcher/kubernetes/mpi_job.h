// A fixed job over MPI as an MPIJob of Kubeflow's operator (kubeflow.org/v2beta1): workers run
// sshd, a launcher runs mpirun once all of them are ready.
//
// The image needs sshd and its configuration (deploy/Dockerfile, target mpi).
#pragma once

#include <string>
#include <vector>

#include "launcher/kubernetes/kubernetes_job.h"
#include "launcher/kubernetes/kubernetes_objects.h"

namespace ballot {

// What follows `mpirun` in a pod, up to the worker's command: like mpirun.h's, for a machine that
// is not this one.
std::vector<std::string> mpirun_arguments(int processes, int threads);

KubernetesObject mpi_job(const KubernetesJob& job);

}  // namespace ballot
