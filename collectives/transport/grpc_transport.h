// Ranks as processes that reach each other over gRPC streams, with TLS when configured.
//
// One connection and one stream for each pair of ranks. Payloads are not copied on the way out:
// gRPC reads them where they lie, so a transfer ends only when gRPC has let go of them; on the way
// in they are copied once, from gRPC's buffers to their place. Large messages wait at the sender
// until the receiver has started its side; small ones (4 MiB a peer in all) may go ahead of it.
//
// A peer whose connection ends, or that leaves, is a PeerLost in every transfer that still needs
// it, at once. What is not a frame of this term, or breaks the rules, is a TransportError that
// names the peer; it is counted and the peer's stream is ended. A peer that is silent is the
// caller's Timeout. All exceptions of a transfer come to the one caller thread; gRPC's events are
// handled by threads of the transport's own.
//
// Destroying a transport tells the peers, so that what they still read arrives, and waits for them
// at most `linger`. A transfer that is given up under way ends the transport of all its splits too.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "collectives/transport/transport.h"

namespace ballot {

// Mutual TLS: PEM files, all three or none. Every worker shows its certificate to all others,
// signed by this authority.
struct GrpcTls {
  std::string ca, certificate, key;
  // The name that the certificate of a worker that is dialed must be for; empty: its address.
  std::string name;
  bool given() const { return !ca.empty() || !certificate.empty() || !key.empty(); }
};

struct GrpcOptions {
  int rank = 0;
  int size = 1;
  // "host:port" or "[address]:port" (MASTER_ADDR:MASTER_PORT); rank 0 listens there.
  std::string rendezvous;
  // Which of its addresses this worker listens at and announces; empty: that of the interface that
  // reaches the rendezvous (rank 0: the rendezvous' own). A name or an address, without a port.
  std::string host;
  std::string token;  // the job's secret, the same for all; may be empty
  GrpcTls tls;
  bool insecure = false;                           // without TLS: allowed beyond loopback addresses
  Duration connect = std::chrono::seconds(60);     // until all are connected
  std::size_t frame_bytes = std::size_t{1} << 20;  // 4 KiB to 2 MiB
  int io_threads = 1;
  // How long a connection may be silent before it is asked for a sign of life, which may take twice
  // as long: a machine that vanishes is noticed after three times this. At least 1 s.
  Duration keepalive = std::chrono::seconds(10);
  Duration linger = std::chrono::seconds(2);
};

class GrpcTransport : public Transport {
 public:
  // Frames refused since this worker connected, of all its splits.
  virtual std::uint64_t rejected_frames() const = 0;
};

// Collective: all ranks, each in a process or thread of its own. Throws ConfigError for options
// that cannot work and for a worker that is refused (another size, version or token: both values
// are named, but never a token), FileError for TLS files that cannot be read, Timeout naming the
// ranks that have not come, PeerLost, TransportError.
std::unique_ptr<GrpcTransport> make_grpc_transport(const GrpcOptions& options);

}  // namespace ballot
