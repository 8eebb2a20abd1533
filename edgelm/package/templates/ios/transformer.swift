// NOT BUILT, NOT RUN: edgelm has no Xcode to prove it with. Read it as a sketch of the calls; the Android and C++ packages are proven.
// Model @MODEL_NAME@, recipe @RECIPE@, vocabulary @VOCABULARY@, context @CONTEXT@. Needs TensorFlowLiteSwift with SignatureRunner.
// It runs the longest decode signature only; the Java and C++ sessions show how to climb the ladder and to prefill.
import Foundation
import TensorFlowLite

/// One text: takes token ids, gives the logits of the next token. Not thread-safe.
final class @CLASS@ {
  static let vocabulary = @VOCABULARY@
  static let context = @CONTEXT@
  private static let caches = [@STATES@]
  private static let masked: Float32 = -1e9

  private let decode: SignatureRunner
  private var cache: [String: Data] = [:]
  private var mask = [Float32](repeating: @CLASS@.masked, count: @CLASS@.context)
  private(set) var position: Int32 = 0

  init(path: String, threads: Int = 1) throws {
    var options = Interpreter.Options()
    options.threadCount = threads
    options.isXNNPackEnabled = true
    decode = try Interpreter(modelPath: path, options: options).signatureRunner(with: "decode_@CONTEXT@")
    for name in Self.caches {
      cache[name] = Data(count: try decode.input(named: name).data.count)
    }
  }

  /// Forgets everything: all slots empty.
  func reset() {
    mask = [Float32](repeating: Self.masked, count: Self.context)
    position = 0
  }

  /// Takes one token; gives (@VOCABULARY@) float32 logits.
  func logits(after token: Int32) throws -> [Float32] {
    precondition((0..<Int32(Self.vocabulary)).contains(token), "token id outside of the vocabulary")
    precondition(position < Int32(Self.context), "the context is full: reset and prefill the last part of the text")
    var inputs = cache
    inputs["token"] = withUnsafeBytes(of: token.littleEndian) { Data($0) }
    inputs["position"] = withUnsafeBytes(of: position.littleEndian) { Data($0) }
    inputs["mask"] = mask.withUnsafeBytes { Data($0) }
    try decode.invoke(with: inputs)
    for name in Self.caches {
      try write(row: decode.output(named: name), into: name)
    }
    mask[Int(position)] = 0
    position += 1
    return try decode.output(named: "logits").data.withUnsafeBytes { Array($0.bindMemory(to: Float32.self)) }
  }

  /// Puts the new row of a cache into its slot. Caches are (1, heads, slots, size), or (1, heads, size, slots) where transposed.
  private func write(row: Tensor, into name: String) throws {
    let shape = try decode.input(named: name).shape.dimensions
    let transposed = shape[3] == Self.context && row.shape.dimensions[3] == 1
    let (heads, size) = (shape[1], transposed ? shape[2] : shape[3])
    let width = MemoryLayout<Float32>.size
    for head in 0..<heads {
      for i in 0..<size {
        let slot = transposed ? (head * size + i) * Self.context + Int(position) : (head * Self.context + Int(position)) * size + i
        let from = (head * size + i) * width
        cache[name]!.replaceSubrange(slot * width..<(slot + 1) * width, with: row.data[from..<from + width])
      }
    }
  }
}
