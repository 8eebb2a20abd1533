// Makes sure that XNNPACK's weight cache belongs to the model that is loaded.
//
// XNNPACK itself does not: given the cache of another model it ends the process, and given that of an earlier version of the model (same
// shapes, other weights) it computes with the old weights. So a note beside the cache, `CACHE.model`, names the file it was made from, and
// the library.
#ifndef EDGELM_WEIGHT_CACHE_H_
#define EDGELM_WEIGHT_CACHE_H_

#include <string>

namespace edgelm {

class WeightCache {
 public:
  // Removes a cache that was not made from this very file (path aside: its inode, size and times) or by another LiteRT, or whose
  // making was cut short.
  // Throws Error when the place cannot be written.
  WeightCache(const std::string& path, const std::string& model);

  // Notes that the cache is complete; after the model was loaded.
  void keep() const;

  // Whether the cache is complete and still that of the model file.
  bool is_kept() const;

 private:
  std::string note_text() const;

  std::string path_, note_, model_;
};

}  // namespace edgelm

#endif  // EDGELM_WEIGHT_CACHE_H_
