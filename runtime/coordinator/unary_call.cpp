#include "runtime/coordinator/unary_call.h"

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>

#include <future>

#include "core/error.h"
#include "runtime/coordinator/call_token.h"
#include "runtime/coordinator/grpc_ends.h"

namespace ballot {

UnaryAnswer call_unary(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                       const std::string& token, const std::string& request, Deadline deadline) {
  struct Call {
    grpc::ClientContext context;
    grpc::ByteBuffer request, response;
    std::promise<grpc::Status> done;
  };
  const auto call = std::make_shared<Call>();
  const auto left = deadline.at - std::chrono::steady_clock::now();
  call->context.set_deadline(std::chrono::system_clock::now() +
                             std::chrono::duration_cast<std::chrono::system_clock::duration>(left));
  if (!token.empty()) call->context.AddMetadata(kTokenKey, token);
  call->request = to_buffer(request);
  std::future<grpc::Status> done = call->done.get_future();
  grpc::GenericStub(channel).UnaryCall(
      &call->context, method, grpc::StubOptions(), &call->request, &call->response,
      [call](grpc::Status status) { call->done.set_value(std::move(status)); });
  UnaryAnswer answer{done.get(), ""};
  if (answer.status.ok()) answer.bytes = to_bytes(call->response);
  return answer;
}

void throw_unless_worth_trying(const grpc::Status& status, const std::string& address) {
  const std::string& text = status.error_message();
  if (text.find("handshake failed") != std::string::npos ||
      text.find("peer certificate") != std::string::npos)
    throw TransportError("the coordinator at {} and this process do not trust each other's TLS: {}",
                         address, describe(status));
  switch (status.error_code()) {
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::UNAUTHENTICATED:
      throw ConfigError("refused by the coordinator at {}: {}", address, describe(status));
    case grpc::StatusCode::PERMISSION_DENIED:
      throw SentAway("{}", status.error_message());
    case grpc::StatusCode::UNIMPLEMENTED:
      throw ConfigError("what listens at {} is no coordinator of Ballot: {}", address,
                        describe(status));
    default:
      return;
  }
}

}  // namespace ballot
