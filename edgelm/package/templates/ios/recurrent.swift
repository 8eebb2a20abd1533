// NOT BUILT, NOT RUN: edgelm has no Xcode to prove it with. Read it as a sketch of the calls; the Android and C++ packages are proven.
// Model @MODEL_NAME@, recipe @RECIPE@, vocabulary @VOCABULARY@. Needs TensorFlowLiteSwift with SignatureRunner.
import Foundation
import TensorFlowLite

/// One text: takes token ids, gives the logits of the next token. Not thread-safe.
final class @CLASS@ {
  static let vocabulary = @VOCABULARY@
  private static let states = [@STATES@]

  private let step: SignatureRunner
  private var state: [String: Data] = [:]

  init(path: String, threads: Int = 1) throws {
    var options = Interpreter.Options()
    options.threadCount = threads
    options.isXNNPackEnabled = true
    step = try Interpreter(modelPath: path, options: options).signatureRunner(with: "step")
    try reset()
  }

  /// Forgets everything: zero states.
  func reset() throws {
    for name in Self.states {
      state[name] = Data(count: try step.input(named: name).data.count)
    }
  }

  /// Takes one token; gives (@VOCABULARY@) float32 logits.
  func logits(after token: Int32) throws -> [Float32] {
    precondition((0..<Int32(Self.vocabulary)).contains(token), "token id outside of the vocabulary")
    var inputs = state
    inputs["token"] = withUnsafeBytes(of: token.littleEndian) { Data($0) }
    try step.invoke(with: inputs)
    for name in Self.states {
      state[name] = try step.output(named: name).data
    }
    return try step.output(named: "logits").data.withUnsafeBytes { Array($0.bindMemory(to: Float32.self)) }
  }
}
