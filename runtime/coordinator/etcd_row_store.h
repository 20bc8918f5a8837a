// The coordinator's row as one key of etcd: /ballot/RUN/row.
//
// Every write is one transaction, on condition that the row has not been written since it was read
// and that the leader's key is still this coordinator's (C1).
#pragma once

#include <memory>

#include "runtime/coordinator/etcd_leadership.h"
#include "runtime/coordinator/row_store.h"

namespace ballot {

// Of the leadership's run and cluster. Waits for nobody: load() does.
std::unique_ptr<RowStore> open_etcd_store(std::shared_ptr<EtcdLeadership> leadership);

}  // namespace ballot
