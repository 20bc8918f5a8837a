// Answers gRPC's server reflection for the services it is told of, from the descriptors that
// protobuf compiled in. Needs no token: what it tells is in the sources. Private to this folder.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "proto/reflection.grpc.pb.h"

namespace ballot {

class ReflectionService final
    : public grpc::reflection::v1alpha::ServerReflection::CallbackService {
 public:
  explicit ReflectionService(std::vector<std::string> services) : services_(std::move(services)) {}

  grpc::ServerBidiReactor<grpc::reflection::v1alpha::ServerReflectionRequest,
                          grpc::reflection::v1alpha::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  const std::vector<std::string> services_;
  std::atomic<int> open_ = 0;  // streams; they are few, or somebody plays
};

}  // namespace ballot
