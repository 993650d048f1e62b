// @vladmandic/face-api: its expression net through its own class; it pads and resizes the face to 112 px itself.

const fs = require('fs');
const path = require('path');
const protocol = require('./protocol.js');

protocol.run(async (side) => {
  const tf = await protocol.ready();
  const faceapi = require('@vladmandic/face-api/dist/face-api.node-wasm.js');
  const folder = path.join(path.dirname(require.resolve('@vladmandic/face-api/package.json')), 'model');
  const net = faceapi.nets.faceExpressionNet;
  await net.loadFromDisk(folder);
  const names = ['angry', 'disgusted', 'fearful', 'happy', 'sad', 'surprised', 'neutral'];
  const classify = async (grey) => {
    const face = tf.tidy(() => tf.tensor3d(grey, [side, side, 1], 'int32').tile([1, 1, 3]));
    const found = await net.predictExpressions(face);
    face.dispose();
    return names.map((name) => found[name]);
  };
  return { classify, weightsBytes: fs.statSync(path.join(folder, 'face_expression_model.bin')).size };
});
