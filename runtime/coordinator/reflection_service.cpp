#include "runtime/coordinator/reflection_service.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <set>

namespace ballot {
namespace {

namespace reflection = grpc::reflection::v1alpha;
using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;

constexpr int kMostStreams = 16;

void add_with_dependencies(const FileDescriptor& file, std::set<std::string>& added,
                           reflection::FileDescriptorResponse& response) {
  if (!added.insert(file.name()).second) return;
  google::protobuf::FileDescriptorProto description;
  file.CopyTo(&description);
  response.add_file_descriptor_proto(description.SerializeAsString());
  for (int i = 0; i < file.dependency_count(); ++i)
    add_with_dependencies(*file.dependency(i), added, response);
}

void refuse(grpc::StatusCode code, const std::string& why,
            reflection::ServerReflectionResponse& response) {
  response.mutable_error_response()->set_error_code(code);
  response.mutable_error_response()->set_error_message(why);
}

reflection::ServerReflectionResponse answer(const reflection::ServerReflectionRequest& request,
                                            const std::vector<std::string>& services) {
  using Request = reflection::ServerReflectionRequest;
  reflection::ServerReflectionResponse response;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  const FileDescriptor* file = nullptr;
  switch (request.message_request_case()) {
    case Request::kListServices:
      for (const std::string& service : services)
        response.mutable_list_services_response()->add_service()->set_name(service);
      return response;
    case Request::kFileByFilename:
      file = pool.FindFileByName(request.file_by_filename());
      break;
    case Request::kFileContainingSymbol:
      file = pool.FindFileContainingSymbol(request.file_containing_symbol());
      break;
    case Request::kFileContainingExtension:  // no message here has any
    case Request::kAllExtensionNumbersOfType:
      break;
    case Request::MESSAGE_REQUEST_NOT_SET:
      refuse(grpc::StatusCode::INVALID_ARGUMENT, "the request asks for nothing", response);
      return response;
  }
  std::set<std::string> added;
  if (file == nullptr)
    refuse(grpc::StatusCode::NOT_FOUND, "not known here", response);
  else
    add_with_dependencies(*file, added, *response.mutable_file_descriptor_response());
  return response;
}

class Reactor final : public grpc::ServerBidiReactor<reflection::ServerReflectionRequest,
                                                     reflection::ServerReflectionResponse> {
 public:
  Reactor(const std::vector<std::string>& services, std::atomic<int>& open)
      : services_(services), open_(open) {
    if (++open_ > kMostStreams)
      Finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many reflection streams"});
    else
      StartRead(&request_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    response_ = answer(request_, services_);
    StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish({grpc::StatusCode::UNAVAILABLE, "an answer could not be written"});
    StartRead(&request_);
  }
  void OnDone() override {
    --open_;
    delete this;
  }

 private:
  const std::vector<std::string>& services_;
  std::atomic<int>& open_;
  reflection::ServerReflectionRequest request_;
  reflection::ServerReflectionResponse response_;
};

}  // namespace

grpc::ServerBidiReactor<reflection::ServerReflectionRequest, reflection::ServerReflectionResponse>*
ReflectionService::ServerReflectionInfo(grpc::CallbackServerContext*) {
  return new Reactor(services_, open_);
}

}  // namespace ballot
