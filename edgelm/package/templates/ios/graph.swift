// NOT BUILT, NOT RUN: edgelm has no Xcode to prove it with. Read it as a sketch of the calls; the Android and C++ packages are proven.
// Model @MODEL_NAME@, recipe @RECIPE@, vocabulary @VOCABULARY@, window @CONTEXT@. Needs TensorFlowLiteSwift with SignatureRunner.
import Foundation
import TensorFlowLite

/// The graph as it was converted: a window of @CONTEXT@ token ids in, scores out. Not thread-safe.
final class @CLASS@ {
  static let window = @CONTEXT@

  private let forward: SignatureRunner

  init(path: String, threads: Int = 1) throws {
    var options = Interpreter.Options()
    options.threadCount = threads
    options.isXNNPackEnabled = true
    forward = try Interpreter(modelPath: path, options: options).signatureRunner(with: "forward")
  }

  /// Runs one window of ids, in the integer type the model takes; gives all its scores, row by row.
  func scores<Id: FixedWidthInteger>(of ids: [Id]) throws -> [Float32] {
    precondition(ids.count == Self.window, "the window takes @CONTEXT@ ids: pad with 0")
    try forward.invoke(with: [forward.inputs[0]: ids.withUnsafeBytes { Data($0) }])
    return try forward.output(named: forward.outputs[0]).data.withUnsafeBytes { Array($0.bindMemory(to: Float32.self)) }
  }
}
