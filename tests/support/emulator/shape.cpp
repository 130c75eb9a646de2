// The variants' shapes for the tests: members in their order, as integers.
#include "cluster_shape.h"
#include "large_batch_shape.h"
#include "recurrence_shape.h"

namespace {

rnnfast::cuda::RecurrenceShape shape(const int* m) {
  return {m[0], m[1], m[2], m[3], m[4], m[5], m[6] != 0};
}

}  // namespace

extern "C" int shape_is_valid(const int* members) { return shape(members).is_valid(); }

extern "C" long long shape_shared_bytes(const int* members, int groups) {
  return shape(members).shared_bytes(groups);
}

// -1: there is no such shape.
extern "C" int shape_large_batch_bytes(const int* m) {
  const rnnfast::cuda::LargeBatchShape shape{m[0], m[1], m[2], m[3]};
  return shape.is_valid() ? shape.shared_bytes() : -1;
}

// -1: there is no such shape.
extern "C" int shape_cluster_bytes(const int* m) {
  const rnnfast::cuda::ClusterShape shape{m[0], m[1], m[2], m[3], m[4] != 0};
  return shape.is_valid() ? shape.shared_bytes() : -1;
}
