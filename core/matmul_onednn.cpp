// The matmul seam on oneDNN (2.x descriptors here; 3.x dropped them, hence the branch on its
// version).
//
// A primitive is made once per thread for each combination of shapes, strides, types and team size,
// and kept: making one costs as much as a small product. Kept per thread because a memory object's
// handle is set at each call. Inside a parallel region it is made for one thread, which is what
// runs it.

#include <dnnl.hpp>
#include <unordered_map>

#include "core/error.h"
#include "core/hash.h"
#include "core/matmul_cpu.h"
#include "core/parallel.h"

namespace ballot {
namespace {

using dnnl::memory;

struct Key {
  std::int64_t m, n, k;
  std::int64_t a_row, a_col, b_row, b_col, c_row;
  int threads;
  DType in, out;
  bool accumulate;
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  std::size_t operator()(const Key& key) const {
    std::uint64_t h = hash64(key.m, key.n, key.k);
    h = hash64(h, key.a_row, key.a_col, key.b_row);
    h = hash64(h, key.b_col, key.c_row, key.threads);
    return hash64(h, static_cast<int>(key.in), static_cast<int>(key.out), key.accumulate);
  }
};

struct Product {
  dnnl::matmul primitive;
  memory a, b, c;
  std::unordered_map<int, memory> arguments;
};

memory::data_type to_dnnl(DType type) {
  return type == DType::f32 ? memory::data_type::f32 : memory::data_type::bf16;
}

struct Engine {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
};

Engine& engine_of_thread() {
  thread_local Engine engine;
  return engine;
}

// Shapes come from batches, so their number has no bound: a thread that has met this many forgets
// them all.
constexpr std::size_t kProductsMax = 4096;

// Sets the calling thread's team for as long as it lives; oneDNN reads it when a primitive is made.
class TeamOf {
 public:
  explicit TeamOf(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~TeamOf() { omp_set_num_threads(before_); }
  TeamOf(const TeamOf&) = delete;
  TeamOf& operator=(const TeamOf&) = delete;

 private:
  int before_;
};

Product make_product(const Key& key, const dnnl::engine& engine) {
  const memory::desc a({key.m, key.k}, to_dnnl(key.in), memory::dims{key.a_row, key.a_col});
  const memory::desc b({key.k, key.n}, to_dnnl(key.in), memory::dims{key.b_row, key.b_col});
  const memory::desc c({key.m, key.n}, to_dnnl(key.out), memory::dims{key.c_row, 1});
  dnnl::primitive_attr attributes;
  if (key.accumulate) {
    dnnl::post_ops operations;
    operations.append_sum(1.0f);
    attributes.set_post_ops(operations);
  }
  Product product;
#if DNNL_VERSION_MAJOR >= 3
  product.primitive = dnnl::matmul(dnnl::matmul::primitive_desc(engine, a, b, c, attributes));
#else
  product.primitive =
      dnnl::matmul(dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), attributes, engine));
#endif
  product.a = memory(a, engine, nullptr);
  product.b = memory(b, engine, nullptr);
  product.c = memory(c, engine, nullptr);
  product.arguments = {
      {DNNL_ARG_SRC, product.a}, {DNNL_ARG_WEIGHTS, product.b}, {DNNL_ARG_DST, product.c}};
  return product;
}

// A dimension of extent 1 may carry any stride; oneDNN wants one that does not overlap.
std::int64_t stride_of(const Tensor& x, int dimension) {
  if (x.extent[dimension] != 1) return x.stride[dimension];
  return x.stride[1 - dimension] == 1 ? x.extent[1 - dimension] : 1;
}

}  // namespace

void matmul_cpu(const Tensor& a, const Tensor& b, const Tensor& c, Accumulate accumulate) {
  const Key key{a.extent[0],     b.extent[1],     a.extent[1],
                stride_of(a, 0), stride_of(a, 1), stride_of(b, 0),
                stride_of(b, 1), stride_of(c, 0), omp_in_parallel() ? 1 : thread_count(),
                a.type,          c.type,          accumulate == Accumulate::yes};
  thread_local std::unordered_map<Key, Product, KeyHash> products;
  Engine& engine = engine_of_thread();
  try {
    auto found = products.find(key);
    if (found == products.end()) {
      if (products.size() >= kProductsMax) products.clear();
      const TeamOf team(key.threads);
      found = products.emplace(key, make_product(key, engine.engine)).first;
    }
    Product& product = found->second;
    product.a.set_data_handle(a.data);
    product.b.set_data_handle(b.data);
    product.c.set_data_handle(c.data);
    product.primitive.execute(engine.stream, product.arguments);
  } catch (const dnnl::error& failure) {
    throw Unavailable("matmul of {} and {} into {}: oneDNN on {} says \"{}\"{}", a.describe(),
                      b.describe(), c.describe(), processor_features(), failure.what(),
                      a.type == DType::bf16 && !has_bf16() ? "; bf16 products need AVX-512" : "");
  }
}

}  // namespace ballot
